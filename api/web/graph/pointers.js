// One pointer drags, two pinch, the wheel zooms where it is.
export function pointers(place, { pan, zoom, hover }) {
  const down = new Map();
  const spread = () => {
    const [a, b] = [...down.values()];
    return { wide: Math.hypot(a.x - b.x, a.y - b.y), x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 };
  };
  const here = (event) => {
    const box = place.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  place.addEventListener("pointerdown", (event) => {
    const pressed = event.target.closest("a, button"); // what captures the pointer takes their click away
    if (pressed && !(pressed.matches(".node") && event.pointerType !== "mouse")) return;
    down.set(event.pointerId, here(event));
    if (!event.target.closest(".node")) place.setPointerCapture(event.pointerId);
  });
  place.addEventListener("pointermove", (event) => {
    const before = down.get(event.pointerId);
    if (!before) return hover(event);
    hover(null);
    const now = here(event);
    if (down.size === 1) pan(now.x - before.x, now.y - before.y);
    const old = down.size === 2 ? spread() : null;
    down.set(event.pointerId, now);
    if (!old) return;
    const next = spread();
    pan(next.x - old.x, next.y - old.y);
    zoom(next.wide / Math.max(1, old.wide), next);
  });
  const up = (event) => down.delete(event.pointerId);
  for (const kind of ["pointerup", "pointercancel", "lostpointercapture"]) place.addEventListener(kind, up);
  place.addEventListener("pointerleave", () => hover(null));
  place.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 20 : 1;
      zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0016)), here(event));
    },
    { passive: false },
  );
}
