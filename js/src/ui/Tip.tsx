import { type Signal, useComputed, useSignal } from "@preact/signals";
import { type ComponentChildren, createContext } from "preact";
import { useContext, useLayoutEffect, useRef } from "preact/hooks";

interface Shown {
  text: string;
  /** What is explained. */
  target: HTMLElement;
}

const TipContext = createContext<Signal<Shown | null> | null>(null);
const TIP_ID = "modeldeck-tip";

/** A place for explanations, one at a time. They are drawn beside everything else, where nothing cuts them off. */
export function TipArea({ children }: { children: ComponentChildren }) {
  const shown = useSignal<Shown | null>(null);
  return (
    <TipContext.Provider value={shown}>
      {children}
      {shown.value ? (
        <Tip
          {...shown.value}
          hide={() => {
            shown.value = null;
          }}
        />
      ) : null}
    </TipContext.Provider>
  );
}

function Tip({ text, target, hide }: Shown & { hide: () => void }) {
  const tip = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => {
    const frame = tip.current?.parentElement;
    if (tip.current && frame) {
      const [outer, inner, own] = [frame, target, tip.current].map((element) => element.getBoundingClientRect());
      if (outer && inner && own) {
        const below = inner.bottom - outer.top + frame.scrollTop + 4;
        const isLow = inner.bottom + own.height + 8 > outer.bottom;
        const left = Math.min(inner.left - outer.left, outer.width - own.width - 8);
        tip.current.style.top = `${isLow ? below - own.height - inner.height - 8 : below}px`;
        tip.current.style.left = `${Math.max(8, left)}px`;
      }
    }
    // It would stay behind when what it explains is scrolled away.
    frame?.addEventListener("scroll", hide, { capture: true, passive: true });
    return () => frame?.removeEventListener("scroll", hide, { capture: true });
  }, [target, text]);
  return (
    <div ref={tip} id={TIP_ID} class="tip small" role="tooltip">
      {text}
    </div>
  );
}

/** Something short whose meaning is one hover or focus away. */
export function Explained({ text, children }: { text: string | null; children: ComponentChildren }) {
  const shown = useContext(TipContext);
  const target = useRef<HTMLSpanElement>(null);
  const isShown = useComputed(() => (shown?.value ?? null) !== null && shown?.value?.target === target.current);
  if (!text || !shown) {
    return <>{children}</>;
  }
  const show = () => {
    if (target.current) {
      shown.value = { text, target: target.current };
    }
  };
  const hide = () => {
    if (shown.peek()?.target === target.current) {
      shown.value = null;
    }
  };
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: it shows a description, and has nothing to press
    <span
      ref={target}
      class="explained"
      // biome-ignore lint/a11y/noNoninteractiveTabindex: the description must be within reach of the keyboard
      tabIndex={0}
      aria-describedby={isShown.value ? TIP_ID : undefined}
      onPointerEnter={show}
      onPointerLeave={hide}
      onFocus={show}
      onBlur={hide}
      onKeyDown={(event) => {
        if (event.key === "Escape" && isShown.value) {
          event.stopPropagation();
          hide();
        }
      }}
    >
      {children}
    </span>
  );
}
