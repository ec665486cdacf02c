// Whether Python is there, and the messages to and from it.

import type { AnyModel } from "@anywidget/types";
import { computed, type ReadonlySignal, signal } from "@preact/signals";
import { kernelOf, type Pending, Rpc, type RpcOptions } from "./rpc";
import type { Message, Method, Methods, ToastMessage, Traits } from "./wire";

/** `connecting`: hello is not answered yet. `static`: the page has no kernel. `lost`: it had one. */
export type ConnectionState = "connecting" | "live" | "static" | "lost";

/** If hello is not answered within this time and no kernel is in sight, the page is a saved one. */
const STATIC_AFTER_MS = 5000;

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
  readonly isUsable = computed(() => ["connecting", "live"].includes(this.#state.value));

  readonly #options: ConnectionOptions;
  readonly #rpc: Rpc;

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
    this.#greet();
    const timer = setTimeout(() => {
      if (!kernelOf(model)) {
        this.markStatic();
      }
    }, STATIC_AFTER_MS);
    abort.addEventListener("abort", () => {
      clearTimeout(timer);
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
    return this.#rpc.request(method, params);
  }

  /** Python has been heard. */
  revive(): void {
    this.#state.value = "live";
  }

  /** The host has marked the widget as having no kernel, or nobody answers. */
  markStatic(): void {
    if (this.#state.peek() === "connecting") {
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
    this.#rpc.request("hello", {}).answer.then(
      () => this.revive(),
      () => {},
    );
  }

  #receive(message: Message): void {
    switch (message?.kind) {
      case "modeldeck-answer":
        this.revive();
        this.#rpc.settle(message);
        break;
      case "modeldeck-ack":
        this.revive();
        this.#rpc.acknowledge(message.id);
        break;
      case "modeldeck-toast":
        this.revive();
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
