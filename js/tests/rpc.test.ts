import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { FakeModel, fakeKernel } from "../harness/fake-model";
import { type RequestError, Rpc } from "../src/rpc";

function setUp({ commId = "comm-1" as string | null, kernel = fakeKernel() } = {}) {
  const model = new FakeModel({}, kernel);
  const onLost = vi.fn();
  const rpc = new Rpc({ channel: model as never, commId: () => commId, onLost });
  return { model, kernel, rpc, onLost };
}

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

it("sends the same comm message on the comm and on the control channel", () => {
  const { model, kernel, rpc } = setUp();
  const { id } = rpc.request("act", { job_id: "j", action: "pause" });
  const request = { kind: "modeldeck-request", id, method: "act", params: { job_id: "j", action: "pause" } };
  expect(model.sent).toEqual([request]);
  expect(kernel.sent).toHaveLength(1);
  expect(kernel.sent[0]).toMatchObject({
    channel: "control",
    header: { msg_type: "comm_msg", session: "client-1", username: "someone" },
    content: { comm_id: "comm-1", data: { method: "custom", content: request } },
  });
});

it("uses the comm alone where the host shows no kernel, or the comm's id is unknown", () => {
  const hidden = new FakeModel();
  new Rpc({ channel: hidden as never, commId: () => "comm-1", onLost: vi.fn() }).request("hello", {});
  expect(hidden.sent).toHaveLength(1);
  const { model, kernel, rpc } = setUp({ commId: null });
  rpc.request("hello", {});
  expect(model.sent).toHaveLength(1);
  expect(kernel.sent).toHaveLength(0);
});

it("survives a control channel that refuses", async () => {
  const kernel = fakeKernel();
  kernel.sendControlMessage = () => ({ done: Promise.reject(new Error("cancelled")) });
  const { model, rpc } = setUp({ kernel });
  rpc.request("hello", {});
  await vi.advanceTimersByTimeAsync(10);
  kernel.sendControlMessage = () => {
    throw new Error("Kernel is dead");
  };
  rpc.request("hello", {});
  expect(model.sent).toHaveLength(2);
});

it("gives every request its own id", () => {
  const { model, rpc } = setUp();
  for (let index = 0; index < 50; index += 1) {
    rpc.request("hello", {});
  }
  expect(new Set(model.sent.map(({ id }) => id)).size).toBe(50);
});

it("resolves once, even if the answer comes twice", async () => {
  const { model, rpc } = setUp();
  const pending = rpc.request("hello", {});
  const answer = { kind: "modeldeck-answer", id: pending.id, ok: true, error: null } as const;
  rpc.settle(answer);
  rpc.settle(answer);
  rpc.settle({ ...answer, id: "of-another-page" });
  await expect(pending.answer).resolves.toBeUndefined();
  await vi.advanceTimersByTimeAsync(100_000);
  expect(model.sent).toHaveLength(1);
});

it("rejects with the error that Python sent", async () => {
  const { rpc } = setUp();
  const pending = rpc.request("act", { job_id: "x", action: "retry" });
  const error = { code: "invalid_request", message: "There is no such download.", details: {} };
  rpc.settle({ kind: "modeldeck-answer", id: pending.id, ok: false, error });
  const rejected: RequestError = await pending.answer.then(
    () => expect.unreachable(),
    (reason) => reason,
  );
  expect(rejected.info).toEqual(error);
});

it("waits for the running cell after 700 ms, sends again with the same id, and takes a late answer", async () => {
  const { model, rpc } = setUp();
  const pending = rpc.request("act", { job_id: "j", action: "cancel" });
  await vi.advanceTimersByTimeAsync(690);
  expect(pending.isWaiting.value).toBe(false);
  await vi.advanceTimersByTimeAsync(20);
  expect(pending.isWaiting.value).toBe(true);
  expect(model.sent.map(({ id }) => id)).toEqual([pending.id, pending.id]);
  await vi.advanceTimersByTimeAsync(600_000);
  expect(new Set(model.sent.map(({ id }) => id)).size).toBe(1);
  expect(model.sent.length).toBeLessThan(16);
  rpc.settle({ kind: "modeldeck-answer", id: pending.id, ok: true, error: null });
  await expect(pending.answer).resolves.toBeUndefined();
  expect(pending.isWaiting.value).toBe(false);
});

it("does not speak of waiting once Python has the request, however long the work takes", async () => {
  const { model, rpc } = setUp();
  const pending = rpc.request("open_repo", { repo_id: "a/b" });
  rpc.acknowledge(pending.id);
  await vi.advanceTimersByTimeAsync(60_000);
  expect(pending.isWaiting.value).toBe(false);
  expect(model.sent).toHaveLength(1);
  rpc.settle({ kind: "modeldeck-answer", id: pending.id, ok: true, error: null });
  await expect(pending.answer).resolves.toBeUndefined();
  rpc.acknowledge(pending.id);
});

it("reports a comm that cannot send, and fails what is open when told to", async () => {
  const { model, rpc, onLost } = setUp();
  model.isDead = true;
  onLost.mockImplementation(() => rpc.abandon("The kernel is gone."));
  const pending = rpc.request("hello", {});
  expect(onLost).toHaveBeenCalledOnce();
  await expect(pending.answer).rejects.toMatchObject({ info: { code: "disconnected" } });
  await vi.advanceTimersByTimeAsync(100_000);
  expect(onLost).toHaveBeenCalledOnce();
});
