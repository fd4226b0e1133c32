// Reads of the HTTP interface. A refused request is an Error with the sentence that the server wrote for us.

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export async function read(path, signal) {
  const response = await fetch(path, { headers: { Accept: "application/json" }, signal });
  if (response.ok) return response.json();
  const problem = await response.json().catch(() => ({}));
  throw new Refused(response.status, problem.detail ?? `the server answered ${response.status}`);
}
