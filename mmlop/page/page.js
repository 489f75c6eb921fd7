// Where there are several panels, the selector above them shows one; without scripts, and on paper, all are there.
for (const choice of document.querySelectorAll("select[data-panels]")) {
  const panels = document.querySelectorAll(`.panel[data-of="${choice.dataset.panels}"]`);
  const show = () => panels.forEach((panel, place) => panel.classList.toggle("away", place !== Number(choice.value)));
  choice.addEventListener("change", show);
  show(); // a browser may have kept the choice over a reload
}
