// Whether Python is there, and the messages to and from it.

import type { AnyModel } from "@anywidget/types";
import { computed, type ReadonlySignal, signal } from "@preact/signals";
import { kernelOf, type Pending, Rpc, type RpcOptions } from "./rpc";
import type { Message, Method, Methods, ToastMessage, Traits } from "./wire";

/**
 * `connecting`: hello is not answered yet. `silent`: nor is it after a while, because a cell runs or because the page is a
 * saved one. `static`: the host says that there is no kernel. `lost`: there was one.
 */
export type ConnectionState = "connecting" | "live" | "silent" | "static" | "lost";

/** If hello is not answered within this time and no kernel is in sight, there may be none. */
const SILENT_AFTER_MS = 5000;

/** Colab shows what a thread publishes when the kernel next answers the page, so there the page keeps asking. */
const ASK_EVERY_MS = 2000;
/** It stops when there has been no news, and nothing has been asked for, for this long. */
const ASK_FOR_MS = 60_000;

export interface ConnectionOptions {
  model: AnyModel<Traits>;
  /** Aborted when the widget is removed. */
  abort: AbortSignal;
  commId(): string | null;
  onToast(message: ToastMessage): void;
}

export class Connection {
  readonly #state = signal<ConnectionState>("connecting");
  /** Whether requests make sense. Buttons are disabled if not. */
  readonly isUsable = computed(() => !/static|lost/.test(this.#state.value));

  readonly #options: ConnectionOptions;
  readonly #rpc: Rpc;
  #isGreeting = false;
  #askUntil = 0;

  constructor(options: ConnectionOptions) {
    const { model, commId } = options;
    this.#options = options;
    this.#rpc = new Rpc({ channel: model as RpcOptions["channel"], commId, onLost: () => this.#lose() });
  }

  get state(): ReadonlySignal<ConnectionState> {
    return this.#state;
  }

  /** Listen to Python, and say hello. */
  open(): void {
    const { model, abort } = this.#options;
    this.on("msg:custom", (message: Message) => this.#receive(message));
    this.on("comm:close", () => this.#lose());
    this.on("comm_live_update", () => {
      // Sent when the kernel restarts, and in some hosts when it is back: an answer to hello tells which.
      this.#lose();
      this.#greet();
    });
    this.#watchKernel();
    this.#expectNews();
    this.#greet();
    const timer = setTimeout(() => {
      if (!kernelOf(model) && this.#state.peek() === "connecting") {
        this.#state.value = "silent";
      }
    }, SILENT_AFTER_MS);
    const asking = (window as { google?: { colab?: unknown } }).google?.colab
      ? setInterval(() => this.#ask(), ASK_EVERY_MS)
      : undefined;
    abort.addEventListener("abort", () => {
      clearTimeout(timer);
      clearInterval(asking);
      this.#rpc.abandon("The widget was removed.");
    });
  }

  /** Listen to an event of the model until the widget is removed. */
  on<T>(event: string, listener: (argument: T) => void): void {
    const { model, abort } = this.#options;
    model.on(event, listener);
    abort.addEventListener("abort", () => model.off(event as "msg:custom", listener));
  }

  request<M extends Method>(method: M, params: Methods[M]): Pending {
    this.#expectNews();
    return this.#rpc.request(method, params);
  }

  /** Python has written a trait. */
  revive(): void {
    this.#expectNews();
    this.#state.value = "live";
  }

  /** The host has marked the widget as having no kernel. */
  markStatic(): void {
    if (/connecting|silent/.test(this.#state.peek())) {
      this.#state.value = "static";
    }
  }

  #lose(): void {
    if (this.#state.peek() !== "static") {
      this.#state.value = "lost";
    }
    this.#rpc.abandon("The kernel is gone.");
  }

  #greet(): void {
    this.#isGreeting = true;
    this.#rpc.request("hello", {}).answer.then(
      () => {
        this.#isGreeting = false;
        this.#hear();
      },
      () => {},
    );
  }

  #expectNews(): void {
    this.#askUntil = Date.now() + ASK_FOR_MS;
  }

  #ask(): void {
    if (!this.#isGreeting && !document.hidden && Date.now() < this.#askUntil) {
      this.#greet();
    }
  }

  #hear(): void {
    this.#state.value = "live";
  }

  #receive(message: Message): void {
    switch (message?.kind) {
      case "modeldeck-answer":
        this.#hear();
        this.#rpc.settle(message);
        break;
      case "modeldeck-ack":
        this.#hear();
        this.#rpc.acknowledge(message.id);
        break;
      case "modeldeck-toast":
        this.#hear();
        this.#options.onToast(message);
        break;
      case "modeldeck-ping":
        this.#greet();
        break;
    }
  }

  /** A kernel that is shut down tells its connection, but not the comm. */
  #watchKernel(): void {
    const { model, abort } = this.#options;
    const disposed = kernelOf(model)?.disposed;
    const lose = () => this.#lose();
    disposed?.connect(lose);
    abort.addEventListener("abort", () => disposed?.disconnect(lose));
  }
}
