import type { Store } from "../store";
import { Icon } from "./icons";

/** What the whole widget has to say: that it cannot act, and why; that something is missing. */
export function Banners({ store }: { store: Store }) {
  const { engine, hardware, llama } = store.view.value;
  const connection = store.connection.value;
  if (connection === "lost") {
    const downloads = engine.mode === "process" ? " Downloads go on by themselves." : "";
    return (
      <Banner
        isWarning
        text={`The kernel was restarted or stopped, and this is the last state.${downloads} Run the cell again to go on.`}
      />
    );
  }
  if (connection === "static") {
    return (
      <Banner text="No kernel answers: this is the last saved state, and the buttons are off. Run the cell to use it." />
    );
  }
  return (
    <>
      {engine.notice ? <Banner text={engine.notice} /> : null}
      {hardware?.notice ? <Banner text={hardware.notice} /> : null}
      {!llama.is_available && llama.message ? <Banner text={llama.message} /> : null}
    </>
  );
}

function Banner({ text, isWarning = false }: { text: string; isWarning?: boolean }) {
  return (
    <div class="banner" data-tone={isWarning ? "fair" : undefined} role={isWarning ? "alert" : "note"}>
      <Icon name={isWarning ? "warning" : "info"} />
      <p>{text}</p>
    </div>
  );
}
