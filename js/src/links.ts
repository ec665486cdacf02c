// Addresses come from the Hub and from mirrors: only what cannot run a script or leave the encrypted web is a link.

const LOOPBACK = new Set(["localhost", "127.0.0.1", "[::1]"]);

/** The address when it is https, or http on this machine; `null` for everything else. */
export function safeLink(address: unknown): string | null {
  if (typeof address !== "string") {
    return null;
  }
  let url: URL;
  try {
    url = new URL(address);
  } catch {
    return null;
  }
  const isSafe = url.protocol === "https:" || (url.protocol === "http:" && LOOPBACK.has(url.hostname));
  return isSafe && !url.username && !url.password ? url.href : null;
}

/** The page of a repository at an endpoint. */
export function repoPage(endpoint: string, repoId: string): string | null {
  return safeLink(`${endpoint.replace(/\/+$/, "")}/${repoId.split("/").map(encodeURIComponent).join("/")}`);
}

/** The endpoint as people name it: without the scheme. */
export function endpointName(endpoint: string): string {
  return endpoint.replace(/^https?:\/\//, "").replace(/\/+$/, "");
}
