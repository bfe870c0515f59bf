// A click on a box of the flame view makes it as wide as the picture; a click on the first row goes back.
document.querySelectorAll("svg.flame").forEach(svg => {
  const width = svg.viewBox.baseVal.width;
  const boxes = [...svg.querySelectorAll("g")].map(g => ({
    g, x: +g.dataset.x, w: +g.dataset.w, rect: g.querySelector("rect"), text: g.querySelector("text"),
  }));
  svg.addEventListener("click", event => {
    const g = event.target.closest("g");
    if (!g) return;
    const from = +g.dataset.x, whole = +g.dataset.w;
    for (const box of boxes) {
      const left = Math.max(0, (box.x - from) / whole), right = Math.min(1, (box.x + box.w - from) / whole);
      const shown = (right - left) * width;
      box.g.style.display = shown > 0.35 ? "" : "none";
      if (shown <= 0.35) continue;
      box.rect.setAttribute("x", left * width);
      box.rect.setAttribute("width", shown);
      box.text.setAttribute("x", left * width + 4);
      const letters = Math.floor((shown - 8) / 6.4), name = box.g.dataset.n;
      box.text.textContent = letters < 3 ? "" : name.length <= letters ? name : name.slice(0, letters - 1) + "…";
    }
  });
});
