import { act } from "preact/test-utils";
import { describe, expect, it } from "vitest";
import { DUMPED_SCENES } from "../harness/samples";
import type { DeckState } from "../src/wire";
import { click, get, lastAct, nameOf, rowOf, show } from "./dom";

const SCENE = DUMPED_SCENES.cluster as DeckState;
const NAME = "of bartowski/Qwen2.5-7B-Instruct-GGUF";

const text = (element: Element | null | undefined) => (element?.textContent ?? "").replace(/\s+/g, " ").trim();
/** The parts of each line of a group. */
const linesOf = (group: Element) =>
  [...group.querySelectorAll("li")].map((line) => [...line.children].map(text).join("|"));

describe("a pull to a cluster", () => {
  it("has one bar for all hosts, and a line for each behind what counts them", () => {
    const row = rowOf(show(SCENE).root, "Q4_K_M");
    expect(get(row, "progressbar", `Download of Q4_K_M ${NAME}`).getAttribute("aria-valuenow")).toBe("74");
    expect(text(row.querySelector("summary"))).toBe("On 2 of 4 hosts");
    expect(row.querySelector("details")?.open).toBe(false);
    expect(linesOf(get(row, "group", `Hosts of Q4_K_M ${NAME}`))).toEqual([
      "node1|2.9 of 4.7 GB|98 MB/s|from the Hub",
      "node2|2.9 of 4.7 GB|97 MB/s|from node1",
      "node3|Ready|4.68 GB|was there already",
      "node4|Ready|4.68 GB|shares a cache",
    ]);
    expect([...row.querySelectorAll("button")].map(nameOf)).toEqual([`Cancel Q4_K_M ${NAME}`]);
  });

  it("shows at once which host failed and why, and tries it again", () => {
    const { root, model } = show(SCENE);
    const row = rowOf(root, "Q6_K");
    expect(row.querySelector("details")?.open).toBe(true);
    const [, failed] = linesOf(get(row, "group", `Hosts of Q6_K ${NAME}`));
    expect(failed).toMatch(/^node2\|Failed\|1\.2 of 4\.7 GB\|from node1\|Not enough room/);
    click(get(row, "button", `Retry Q6_K ${NAME}`));
    expect(lastAct(model, "retry")?.params).toEqual({ job_id: "pull-2", action: "retry" });
  });

  it("is among the downloads with its hosts, also when it has ended", async () => {
    const { root, write } = show(SCENE);
    act(() => root.querySelector<HTMLElement>("[data-tab=downloads]")?.click());
    expect(rowOf(root, "Q4_K_M").querySelector("summary")).not.toBeNull();
    const jobs = SCENE.downloads.jobs.map((job) => ({ ...job, state: "ready" as const, finished_at: 1 }));
    write({ downloads: { jobs } });
    expect(text(rowOf(root, "Q4_K_M").querySelector("summary"))).toBe("On 2 of 4 hosts");
  });

  it("keeps open what was opened while figures change", () => {
    const { root, write } = show(SCENE);
    const details = rowOf(root, "Q4_K_M").querySelector("details") as HTMLDetailsElement;
    act(() => {
      details.open = true;
      details.dispatchEvent(new Event("toggle"));
    });
    const hosts = (SCENE.cluster.pulls["pull-1"] ?? []).map((host) => ({ ...host, received: 3.1e9 }));
    write({ cluster: { ...SCENE.cluster, pulls: { "pull-1": hosts } } });
    expect(rowOf(root, "Q4_K_M").querySelector("details")?.open).toBe(true);
    expect(text(rowOf(root, "Q4_K_M"))).toContain("3.1 of 4.7 GB");
  });
});
