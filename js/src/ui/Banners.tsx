import type { Store } from "../store";
import { Icon } from "./icons";
import { useLanguage } from "./language";

/** Notices about the whole widget: that it has no kernel, or that something is missing. */
export function Banners({ store }: { store: Store }) {
  const { t, said } = useLanguage();
  const { engine, hardware, llama } = store.view.value;
  const connection = store.connection.state.value;
  if (connection === "lost") {
    return (
      <Banner
        isWarning
        text={t("kernelLost", { downloads: engine.mode === "process" ? t("kernelLostDownloads") : "" })}
      />
    );
  }
  if (connection === "static") {
    return <Banner text={t("noKernel")} />;
  }
  if (connection === "silent") {
    return <Banner text={t("noAnswer")} />;
  }
  return (
    <>
      {engine.notice ? <Banner text={said("notices", engine.notice_code, engine.notice)} /> : null}
      {hardware?.notice ? <Banner text={said("notices", hardware.notice_code, hardware.notice)} /> : null}
      {!llama.is_available && llama.message ? <Banner text={said("errors", llama.code, llama.message, llama)} /> : null}
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
