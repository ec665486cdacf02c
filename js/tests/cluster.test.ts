import { act } from "preact/test-utils";
import { describe, expect, it } from "vitest";
import { DUMPED_SCENES } from "../harness/samples";
import type { DeckState, RepoView } from "../src/wire";
import { all, click, get, lastAct, nameOf, rowOf, show } from "./dom";

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
    expect(text(row.querySelector("summary"))).toBe("2 of 4 hosts");
    expect(row.querySelector("details")?.open).toBe(false);
    expect(linesOf(get(row, "disclosure", `Hosts of Q4_K_M ${NAME}`))).toEqual([
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
    const [, failed] = linesOf(get(row, "disclosure", `Hosts of Q6_K ${NAME}`));
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
    expect(text(rowOf(root, "Q4_K_M").querySelector("summary"))).toBe("2 of 4 hosts");
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

describe("a card on a cluster", () => {
  const factsOf = (root: ParentNode, label: string) => text(rowOf(root, label).querySelector(".facts"));

  it("counts the hosts that a variant fits on, and names the smallest, with its figures where it does not fit", () => {
    const { root } = show(SCENE);
    expect(factsOf(root, "Q4_K_M")).toContain("3 of 4 hostssmallest is node3Recommended");
    expect(factsOf(root, "Q8_0")).toContain("2 of 4 hostssmallest is node3: 8.6 of 6.3 GiB");
    expect(rowOf(root, "Q8_0").querySelector(".pill")?.getAttribute("title")).toMatch(/only .* is free there/);
    expect(text(rowOf(root, "IQ3_XS"))).not.toMatch(/GPU|tokens\/s/);
  });

  const withoutHosts = (repos: DeckState["repos"]) =>
    Object.fromEntries(
      Object.entries(repos).map(([id, repo]) => [
        id,
        { ...repo, variants: repo.variants.map((each) => ({ ...each, hosts: null })) },
      ]),
    );

  it("says nothing of this machine before the hosts are known", () => {
    const { root } = show({ ...SCENE, repos: withoutHosts(SCENE.repos) });
    expect(text(rowOf(root, "Q8_0").querySelector(".facts"))).toBe("8.1 GB");
  });

  it("hides what fits on no host when only what fits is wanted", () => {
    const [repoId, repo] = Object.entries(SCENE.repos)[0] as [string, RepoView];
    const nowhere = { fitting: 0, total: 4, smallest: "node3", needed_bytes: 9, free_bytes: 1, problem: null };
    const variants = repo.variants.map((each) => (each.label === "F16" ? { ...each, hosts: nowhere } : each));
    const { root } = show({ ...SCENE, repos: { [repoId]: { ...repo, variants } } });
    expect(rowOf(root, "F16").querySelector(".pill")?.getAttribute("data-tone")).toBe("bad");
    click(get(root, "checkbox", "Fits here"));
    expect(rowOf(root, "F16")).toBeUndefined();
    expect(rowOf(root, "Q8_0")).toBeDefined();
  });
});

describe("the cluster", () => {
  it("has a line with its hosts, and says which cannot be used", () => {
    const { root } = show(SCENE);
    const panel = get(root, "region", "Dask cluster");
    expect(text(panel)).toContain(
      "Dask cluster3 of 4 hostsnode4 modeldeck cannot be imported there (No module named 'modeldeck').",
    );
    expect(all(root, "checkbox", "Load when ready")).toEqual([]);
  });

  it("says that the client is closed, until this is dismissed", () => {
    const { root } = show(DUMPED_SCENES["cluster-closed"] as DeckState);
    expect(text(get(root, "alert"))).toContain("This Dask client is closed. Make a new one");
    click(get(root, "button", "Dismiss the error of Dask cluster"));
    expect(all(root, "alert")).toEqual([]);
  });

  it("is not mentioned without a client", () => {
    expect(all(show(DUMPED_SCENES.variants as DeckState).root, "region", "Dask cluster")).toEqual([]);
  });
});

describe("prompts on a cluster", () => {
  const NAME = "Prompts for HuggingFaceTB/SmolLM2-135M-Instruct-GGUF:Q8_0";

  it("have a bar, the speed of each host, and a button that cancels them", () => {
    const { root, request } = show(SCENE);
    const panel = get(root, "region", "Dask cluster");
    const bar = get(panel, "progressbar", NAME);
    expect([bar.getAttribute("aria-valuenow"), bar.getAttribute("aria-valuetext")]).toEqual([
      "37",
      "37 of 100 answered, 1 failed",
    ]);
    expect(text(panel)).toContain("37 of 100 answered, 1 failed");
    expect(text(panel)).toContain("node1 42 tokens/snode2 8.5 tokens/snode3");
    click(get(panel, "button", `Cancel ${NAME}`));
    expect(request("act")?.params).toEqual({ job_id: "map-1", action: "cancel" });
  });

  it("are beside the downloads too, and go when the last one is answered", () => {
    const { root, write } = show(SCENE);
    act(() => root.querySelector<HTMLElement>("[data-tab=downloads]")?.click());
    expect(all(root, "progressbar", NAME)).toHaveLength(1);
    write({ cluster: { ...SCENE.cluster, maps: [] } });
    expect(all(root, "progressbar", NAME)).toEqual([]);
  });
});
