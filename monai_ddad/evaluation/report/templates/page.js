"use strict";
(() => {
  const list = document.getElementById("cards");
  if (!list) return;
  const cards = [...list.children];
  const filters = [...document.querySelectorAll("[data-filter]")];
  const orders = {
    position: (a, b) => a.dataset.row - b.dataset.row,
    highest: (a, b) => b.dataset.score - a.dataset.score,
    lowest: (a, b) => a.dataset.score - b.dataset.score,
  };

  const showKind = (kind) => {
    filters.forEach((button) => button.setAttribute("aria-pressed", button.dataset.filter === kind));
    cards.forEach((card) => { card.hidden = kind !== "" && card.dataset.kind !== kind; });
    const number = cards.filter((card) => !card.hidden).length;
    document.getElementById("shown").textContent = `${number} of ${cards.length} images are shown.`;
  };

  filters.forEach((button) => button.addEventListener("click", () => showKind(button.dataset.filter)));
  document.getElementById("order").addEventListener("change", (event) => {
    list.append(...cards.sort(orders[event.target.value]));
  });
  document.getElementById("overlays").addEventListener("click", (event) => {
    const plain = list.classList.toggle("plain");
    event.target.setAttribute("aria-pressed", !plain);
  });

  list.classList.add("stacked");
  document.getElementById("controls").hidden = false;
  showKind("");
})();
