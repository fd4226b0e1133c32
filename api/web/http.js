// Reads of the HTTP interface. A refused request is an Error with the sentence that the server wrote for us.

export class Refused extends Error {
  constructor(status, detail, retryAfter = null) {
    super(detail);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

async function answered(path, options) {
  const response = await fetch(path, options).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server does not answer. The page tries again by itself.");
  });
  if (response.ok) return response.json();
  const problem = await response.json().catch(() => ({}));
  throw new Refused(
    response.status,
    problem.detail ?? `the server answered ${response.status}`,
    response.headers.get("Retry-After"),
  );
}

export const read = (path, signal) => answered(path, { headers: { Accept: "application/json" }, signal });

export const send = (path, body, type, signal) =>
  answered(path, { method: "POST", body, headers: { Accept: "application/json", "Content-Type": type }, signal });

export const query = (parameters) =>
  new URLSearchParams(
    Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== ""),
  ).toString();

// What `read` answered for the same path within the last `seconds`: for answers that take the analysis worker long.
const kept = new Map();
export function recent(path, seconds) {
  const found = kept.get(path);
  if (found && performance.now() - found.at < 1_000 * seconds) return found.answer;
  const answer = read(path);
  kept.set(path, { at: performance.now(), answer });
  answer.catch(() => kept.delete(path));
  if (kept.size > 200) kept.delete(kept.keys().next().value);
  return answer;
}
