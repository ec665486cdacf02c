// Requests to Python, each with an id: acknowledged when it arrives, answered when it is carried out.
//
// A request leaves on the comm and, where the host shows its kernel, as the same comm message on the control channel:
// while a cell runs only one of the two may get through, and which one depends on the kernel's version. Python drops
// the second by its id.

import { type ReadonlySignal, type Signal, signal } from "@preact/signals";
import type { AnswerMessage, ErrorInfo, Method, Methods, Request } from "./wire";

/** After this long without an acknowledgement the page says that the request waits for the running cell. */
export const WAITING_AFTER_MS = 700;

/** When an unacknowledged request is sent again, after the time before: the first copy may lie in the queue of a busy
 * shell while a later one finds a better way. The last entry repeats. */
const RESEND_MS = [WAITING_AFTER_MS, 1300, 3000, 10_000, 20_000, 60_000] as const;

/** What a request needs of the widget's model. */
export interface Channel {
  send(content: unknown): void;
  widget_manager?: unknown;
}

/** The part of JupyterLab's kernel connection that is used here. */
interface Kernel {
  disposed?: { connect(listener: () => void): void; disconnect(listener: () => void): void };
  clientId: string;
  username: string;
  sendControlMessage(message: unknown, expectReply?: boolean, disposeOnDone?: boolean): { done?: Promise<unknown> };
}

export class RequestError extends Error {
  constructor(readonly info: ErrorInfo) {
    super(info.message);
  }
}

export interface Pending {
  readonly id: string;
  readonly answer: Promise<void>;
  /** True while Python has not taken the request for longer than a kernel at rest needs. */
  readonly isWaiting: ReadonlySignal<boolean>;
  /** Stop sending the request again, and wait no longer for its answer. */
  cancel(): void;
}

interface Entry {
  request: Request;
  isWaiting: Signal<boolean>;
  timer: ReturnType<typeof setTimeout> | undefined;
  resolve(): void;
  reject(error: RequestError): void;
}

export interface RpcOptions {
  channel: Channel;
  /** The comm's id where it is known; without it only the comm itself carries requests. */
  commId(): string | null;
  /** Called when the comm refuses to send: its kernel is gone. */
  onLost(): void;
}

export class Rpc {
  readonly #options: RpcOptions;
  readonly #entries = new Map<string, Entry>();

  constructor(options: RpcOptions) {
    this.#options = options;
  }

  request<M extends Method>(method: M, params: Methods[M]): Pending {
    const request: Request<M> = { kind: "modeldeck-request", id: uuid(), method, params };
    const isWaiting = signal(false);
    const answer = new Promise<void>((resolve, reject) => {
      this.#entries.set(request.id, { request, isWaiting, timer: undefined, resolve, reject });
    });
    this.#deliver(request.id, 0);
    const cancel = () => this.#take(request.id)?.reject(disconnected("A newer request has taken its place."));
    return { id: request.id, answer, isWaiting, cancel };
  }

  /** Python has the request: no need to send it again, nor to speak of waiting. */
  acknowledge(id: string): void {
    const entry = this.#entries.get(id);
    if (entry) {
      clearTimeout(entry.timer);
      entry.isWaiting.value = false;
    }
  }

  /** Settle the request an answer belongs to, however late it is; unknown ids are second copies. */
  settle({ id, error }: AnswerMessage): void {
    const entry = this.#take(id);
    if (error) {
      entry?.reject(new RequestError(error));
    } else {
      entry?.resolve();
    }
  }

  /** Fail everything that is still unanswered. */
  abandon(message: string): void {
    for (const id of [...this.#entries.keys()]) {
      this.#take(id)?.reject(disconnected(message));
    }
  }

  /** Send a request, and again until it is acknowledged. */
  #deliver(id: string, attempt: number): void {
    const entry = this.#entries.get(id);
    if (!entry) {
      return;
    }
    entry.isWaiting.value = attempt > 0;
    const delay = RESEND_MS[Math.min(attempt, RESEND_MS.length - 1)];
    entry.timer = setTimeout(() => this.#deliver(id, attempt + 1), delay);
    this.#send(entry.request);
  }

  #take(id: string): Entry | undefined {
    this.acknowledge(id);
    const entry = this.#entries.get(id);
    this.#entries.delete(id);
    return entry;
  }

  #send(request: Request): void {
    try {
      this.#options.channel.send(request);
    } catch {
      // ipywidgets throws "Cannot send" when the kernel has gone, and says nothing otherwise.
      this.#options.onLost();
      return;
    }
    this.#sendByControl(request);
  }

  #sendByControl(request: Request): void {
    const kernel = kernelOf(this.#options.channel);
    const comm_id = this.#options.commId();
    if (!kernel || !comm_id) {
      return;
    }
    const message = {
      channel: "control",
      header: {
        date: new Date().toISOString(),
        msg_id: uuid(),
        msg_type: "comm_msg",
        session: kernel.clientId,
        username: kernel.username,
        version: "5.3",
      },
      parent_header: {},
      metadata: {},
      content: { comm_id, data: { method: "custom", content: request } },
      buffers: [],
    };
    try {
      // The future ends in an error when the kernel restarts; nobody waits for it.
      kernel.sendControlMessage(message, false, true).done?.catch(() => {});
    } catch {
      // The comm has carried it.
    }
  }
}

function disconnected(message: string): RequestError {
  return new RequestError({ code: "disconnected", message, details: {} });
}

/** The kernel connection behind the widget manager, in hosts that show it. */
export function kernelOf(channel: Channel): Kernel | null {
  const manager = channel.widget_manager as { kernel?: Partial<Kernel> | null } | undefined;
  const kernel = manager?.kernel;
  return typeof kernel?.sendControlMessage === "function" ? (kernel as Kernel) : null;
}

export function uuid(): string {
  // randomUUID exists in secure contexts only; a notebook may be served over plain http.
  if (typeof crypto.randomUUID === "function") {
    return crypto.randomUUID();
  }
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
