import { type ComponentChildren, h } from "preact";
import { safeLink } from "../links";
import type { Language } from "../texts/language";
import type { CardTag, CardToken } from "../wire";
import { Link } from "./Link";
import { useLanguage } from "./language";

interface Element {
  token: CardToken;
  children: ComponentChildren[];
}

/** A model card. Its tokens become elements of these few kinds, and everything that it says becomes text. */
export function CardText({ tokens }: { tokens: readonly CardToken[] }) {
  const language = useLanguage();
  const top: ComponentChildren[] = [];
  const open: Element[] = [];
  const add = (child: ComponentChildren) => (open.at(-1)?.children ?? top).push(child);
  const close = () => {
    const element = open.pop();
    if (element) {
      add(draw(element.token, element.children, language));
    }
  };
  for (const token of tokens) {
    if (token.nesting === 1) {
      open.push({ token, children: [] });
    } else if (token.nesting === -1) {
      close();
    } else {
      add(draw(token, [token.text], language));
    }
  }
  while (open.length > 0) {
    close();
  }
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls, and not every card has a link in it
    <div class="card-text" dir="auto" lang="" tabIndex={0}>
      {top}
    </div>
  );
}

const HEADING = /^h[1-6]$/;
const PLAIN: ReadonlySet<CardTag> = new Set(
  "blockquote code em li ol p s strong table tbody td th thead tr ul".split(" ") as CardTag[],
);

function draw({ tag, url }: CardToken, children: ComponentChildren[], { t }: Language): ComponentChildren {
  if (tag === "text") {
    return children;
  }
  if (tag === "a") {
    const safe = safeLink(url);
    return safe ? <Link url={safe}>{children}</Link> : children;
  }
  if (tag === "img") {
    return <span class="muted">[{t("image", { description: String(children[0]) })}]</span>;
  }
  if (tag === "br" || tag === "hr") {
    return h(tag, {});
  }
  if (tag === "pre") {
    return <pre class="code">{children}</pre>;
  }
  if (HEADING.test(tag)) {
    // All are below the heading of the card, whatever levels the author chose.
    return (
      <h4 class={tag} dir="auto">
        {children}
      </h4>
    );
  }
  return PLAIN.has(tag) ? h(tag as "p", {}, children) : children;
}
