import type { ComponentChildren } from "preact";
import { Icon } from "./icons";
import { useLanguage } from "./language";

/** A link that leaves the notebook. */
export function Link({ url, children }: { url: string; children: ComponentChildren }) {
  const { t } = useLanguage();
  return (
    <a href={url} target="_blank" rel="noopener noreferrer">
      {children}
      <Icon name="external" />
      <span class="hidden"> {t("newTab")}</span>
    </a>
  );
}
