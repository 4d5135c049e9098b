// What the page does more with scripts than without: it stays up to date, copies, and asks before something is lost.
"use strict";

const every = 5000; // milliseconds between looks at the hub

function prepare(root) {
  if (!navigator.clipboard) return;
  for (const button of root.querySelectorAll("button.copy")) button.hidden = false;
}

let pressed = false; // a finger or a button is down: what it is on must not be replaced under it
addEventListener("pointerdown", () => { pressed = true; }, true);
for (const end of ["pointerup", "pointercancel"]) addEventListener(end, () => { pressed = false; }, true);

// busy tells whether a person is at work in an element, so that it must not change.
function busy(element) {
  const selection = getSelection();
  return pressed || element.contains(document.activeElement) || element.querySelector("details[open]") ||
    (selection && !selection.isCollapsed && element.contains(selection.anchorNode));
}

async function refresh() {
  const live = document.querySelectorAll("[data-live]");
  if (document.hidden || live.length === 0) return;
  const response = await fetch(location.href, { redirect: "manual" });
  if (!response.ok) {
    if (response.type === "opaqueredirect") location.assign("/login"); // the session is over
    return;
  }
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const old of live) {
    const now = fresh.getElementById(old.id);
    if (!now || busy(old) || now.innerHTML === old.dataset.was) continue;
    const was = now.innerHTML;
    prepare(now);
    old.replaceChildren(...now.childNodes);
    old.dataset.was = was;
  }
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button.copy");
  if (!button) return;
  await navigator.clipboard.writeText(button.dataset.copy);
  button.classList.add("done");
  setTimeout(() => button.classList.remove("done"), 1500);
});

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});

prepare(document);
setInterval(() => refresh().catch(() => {}), every);
