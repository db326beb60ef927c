"use strict";
{
// The page is whole without this: it only adds keys and the filter.
const tests = Array.from(document.querySelectorAll("details.test"));
const filter = document.getElementById("filter");
const bad = document.getElementById("bad");
const shown = document.getElementById("shown");
const visible = () => tests.filter((test) => !test.hidden);
const isBad = (test) => ["fail", "inconclusive"].includes(test.dataset.verdict);

function apply() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const test of tests) {
    const text = test.querySelector("summary").textContent.toLowerCase();
    test.hidden = !words.every((word) => text.includes(word)) || (bad.checked && !isBad(test));
  }
  shown.textContent = visible().length + " of " + tests.length + " shown";
}

function go(step, wanted) {
  const list = visible();
  const here = list.indexOf(document.activeElement && document.activeElement.closest("details.test"));
  for (let at = here + step; at >= 0 && at < list.length; at += step) {
    if (wanted(list[at])) {
      list[at].querySelector("summary").focus();
      list[at].scrollIntoView({ block: "nearest" });
      return;
    }
  }
}

function reveal() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target && target.matches("details.test")) {
    target.hidden = false;
    target.open = true;
    target.querySelector("summary").focus();
  }
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  // A checkbox takes no text: the keys go on working after "failures only".
  if (event.target.matches("input[type=search]")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const keys = {
    j: () => go(1, () => true),
    k: () => go(-1, () => true),
    f: () => go(1, isBad),
    "/": () => filter.focus(),
  };
  if (keys[event.key]) {
    event.preventDefault();
    keys[event.key]();
  }
});
document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
filter.addEventListener("input", apply);
bad.addEventListener("change", apply);
window.addEventListener("hashchange", reveal);
apply();
reveal();
}
