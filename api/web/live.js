// The event stream: says at every moment whether the numbers on the page are live, stale or cut off.

const SLOW_MS = 5_000; // status is read this often even when no event comes, so that a silent engine is noticed

export function follow({ onSnapshot, onRefresh, onLink }) {
  let source = null;
  let open = false;

  const connect = () => {
    source = new EventSource("/v1/events");
    source.onopen = () => {
      open = true;
      onLink(true);
      onRefresh();
    };
    source.onerror = () => {
      open = false;
      onLink(false);
      if (source.readyState === EventSource.CLOSED) setTimeout(connect, 2_000); // the server answered with an error: the browser gives up
    };
    source.addEventListener("snapshot", (event) => onSnapshot(JSON.parse(event.data)));
    source.addEventListener("reset", (event) => onSnapshot(JSON.parse(event.data)));
  };

  connect();
  setInterval(() => open && onRefresh(), SLOW_MS);
}
