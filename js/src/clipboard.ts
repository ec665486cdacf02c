/** Put text on the clipboard; tells whether it worked. Over plain http the host has no clipboard for us. */
export async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
