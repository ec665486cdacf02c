// The models of the cache: finding, ordering, and what removing them frees.

import type { LibraryRowView, ModelKey } from "./wire";

export type LibrarySort = "name" | "size" | "used";

/** What tells one model of the cache from another. */
export function modelKey({ repo_id, variant_id, commit_hash }: ModelKey): ModelKey {
  return { repo_id, variant_id, commit_hash };
}

/** The bytes that come free when all of these models are removed: those that no other model needs; or all of theirs. */
export function freedBytes(models: readonly LibraryRowView[], isAll = false): number {
  const left = new Map<string, { size: number; users: number }>();
  for (const { repo_id, blobs } of models) {
    for (const { key, size, users } of blobs) {
      const id = `${repo_id}\n${key}`;
      left.set(id, { size, users: (left.get(id)?.users ?? users) - 1 });
    }
  }
  return [...left.values()].reduce((sum, { size, users }) => (users <= 0 || isAll ? sum + size : sum), 0);
}

const ORDER: Record<LibrarySort, (a: LibraryRowView, b: LibraryRowView) => number> = {
  name: (a, b) => a.repo_id.localeCompare(b.repo_id) || a.size - b.size,
  size: (a, b) => b.size - a.size,
  used: (a, b) => (b.last_used ?? 0) - (a.last_used ?? 0),
};

/** The models that contain all words of a text, in an order. */
export function chooseModels(models: readonly LibraryRowView[], text: string, sort: LibrarySort): LibraryRowView[] {
  const words = text.toLowerCase().split(/\s+/);
  return models
    .filter(({ repo_id, label, variant_id }) => {
      const name = `${repo_id} ${label} ${variant_id}`.toLowerCase();
      return words.every((word) => name.includes(word));
    })
    .sort(ORDER[sort]);
}
