/**
 * Put text on the clipboard, also text that is still to come; tells whether it worked. Over plain http the host has no
 * clipboard for us.
 */
export async function copy(text: string | Promise<string | null | undefined>): Promise<boolean> {
  try {
    if (typeof text === "string") {
      await navigator.clipboard.writeText(text);
    } else {
      // WebKit takes nothing after the click, but a promise within it.
      const asBlob = (it: string | null | undefined) =>
        it ? new Blob([it], { type: "text/plain" }) : Promise.reject();
      await navigator.clipboard.write([new ClipboardItem({ "text/plain": text.then(asBlob) })]);
    }
    return true;
  } catch {
    return false;
  }
}
