import type { Store } from "../store";
import { Icon } from "./icons";

/** Notices about the whole widget: that it has no kernel, or that something is missing. */
export function Banners({ store }: { store: Store }) {
  const { engine, hardware, llama } = store.view.value;
  const connection = store.connection.state.value;
  if (connection === "lost") {
    const downloads = engine.mode === "process" ? " Downloads continue in the background." : "";
    return <Banner isWarning text={`Kernel restarted or stopped.${downloads} Run the cell again to reconnect.`} />;
  }
  if (connection === "static") {
    return <Banner text="No kernel. Showing the last saved state; buttons are disabled. Run the cell to reconnect." />;
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
