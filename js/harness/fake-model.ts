// A stand-in for the host's widget model: traits that only "Python" writes, custom messages both ways.

import type { AnyModel } from "@anywidget/types";
import type { DeckState, Message, Request, Traits } from "../src/wire";

type Listener = (...args: unknown[]) => void;

export interface FakeKernel {
  clientId: string;
  username: string;
  sent: { channel: string; header: { msg_type: string; msg_id: string }; content: Record<string, unknown> }[];
  sendControlMessage(message: FakeKernel["sent"][number]): { done: Promise<void> };
  disposed: { connect(listener: () => void): void; disconnect(listener: () => void): void };
  /** The kernel is shut down. */
  dispose(): void;
}

export class FakeModel {
  /** What the page sent on the comm. */
  readonly sent: Request[] = [];
  readonly model_id = "comm-1";
  readonly widget_manager: { kernel?: FakeKernel; get_model: () => never };
  /** Called with every request, as Python's handler would be. */
  onRequest: (request: Request) => void = () => {};
  /** The comm refuses, as ipywidgets' does once the kernel has gone. */
  isDead = false;
  readonly #state: Record<string, unknown>;
  readonly #listeners = new Map<string, Set<Listener>>();

  constructor(state: Partial<DeckState> = {}, kernel?: FakeKernel) {
    this.#state = structuredClone(state) as Record<string, unknown>;
    this.widget_manager = {
      get_model: () => {
        throw new Error("not needed");
      },
      ...(kernel ? { kernel } : {}),
    };
  }

  get(name: string): unknown {
    return this.#state[name.replace(/^_/, "")];
  }

  set(): never {
    throw new Error("JavaScript never writes a trait");
  }

  save_changes(): never {
    throw new Error("JavaScript never writes a trait");
  }

  on(event: string, listener: Listener): void {
    const listeners = this.#listeners.get(event) ?? new Set();
    this.#listeners.set(event, listeners.add(listener));
  }

  off(event: string, listener: Listener): void {
    this.#listeners.get(event)?.delete(listener);
  }

  send(content: Request): void {
    if (this.isDead) {
      throw new Error("Cannot send");
    }
    this.sent.push(content);
    this.onRequest(content);
  }

  /** Python writes traits. They arrive as new objects, parsed from JSON. */
  write(state: Partial<DeckState>): void {
    for (const [name, value] of Object.entries(state)) {
      this.#state[name] = JSON.parse(JSON.stringify(value));
      this.trigger(`change:_${name}`, this, this.#state[name]);
    }
  }

  /** Python sends a custom message. */
  tell(message: Message): void {
    this.trigger("msg:custom", message, []);
  }

  answer(request: Request): void {
    this.tell({ kind: "modeldeck-answer", id: request.id, ok: true, error: null });
  }

  refuse(request: Request, code: string, message: string, details: Record<string, unknown> = {}): void {
    this.tell({ kind: "modeldeck-answer", id: request.id, ok: false, error: { code, message, details } });
  }

  trigger(event: string, ...args: unknown[]): void {
    for (const listener of [...(this.#listeners.get(event) ?? [])]) {
      listener(...args);
    }
  }

  listenerCount(): number {
    return [...this.#listeners.values()].reduce((sum, { size }) => sum + size, 0);
  }

  asModel(): AnyModel<Traits> {
    return this as unknown as AnyModel<Traits>;
  }
}

export function fakeKernel(): FakeKernel {
  const listeners = new Set<() => void>();
  return {
    disposed: {
      connect: (listener) => void listeners.add(listener),
      disconnect: (listener) => void listeners.delete(listener),
    },
    dispose() {
      for (const listener of listeners) {
        listener();
      }
    },
    clientId: "client-1",
    username: "someone",
    sent: [],
    sendControlMessage(message) {
      this.sent.push(message);
      return { done: Promise.resolve() };
    },
  };
}
