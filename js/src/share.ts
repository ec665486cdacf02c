/** `next`, but with every part that equals its counterpart in `previous` taken from there: what did not change keeps
 * its identity, and nothing that shows it is drawn again. Only for JSON values. */
export function share<T>(previous: unknown, next: T): T {
  if (Object.is(previous, next) || !isObject(previous) || !isObject(next)) {
    return next;
  }
  if (Array.isArray(previous) !== Array.isArray(next)) {
    return next;
  }
  const before = previous as Record<string, unknown>;
  const after = next as Record<string, unknown>;
  const keys = Object.keys(after);
  let isSame = keys.length === Object.keys(before).length;
  const merged: Record<string, unknown> | unknown[] = Array.isArray(next) ? [] : {};
  for (const key of keys) {
    const value = share(before[key], after[key]);
    isSame &&= Object.is(value, before[key]) && Object.hasOwn(before, key);
    (merged as Record<string, unknown>)[key] = value;
  }
  return (isSame ? previous : merged) as T;
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null;
}
