"use strict";
(() => {
  const root = document.documentElement, button = document.getElementById("theme");
  const themes = { auto: "as the system", light: "light", dark: "dark" };
  const kept = (() => { try { return localStorage; } catch { return {}; } })();  // a file may have none
  const show = (theme) => {
    theme === "auto" ? root.removeAttribute("data-theme") : root.setAttribute("data-theme", theme);
    button.textContent = `Theme: ${themes[theme]}`;
    kept.theme = theme;
  };
  let theme = kept.theme in themes ? kept.theme : "auto";
  show(theme);
  button.hidden = false;
  button.addEventListener("click", () => {
    const names = Object.keys(themes);
    show(theme = names[(names.indexOf(theme) + 1) % names.length]);
  });

  const filters = document.getElementById("filters");
  if (!filters) return;
  const list = document.getElementById("sample-list"), all = [...list.children];
  const texts = all.map((sample) => sample.textContent.toLowerCase());
  const update = () => {
    const words = filters.elements.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const group = filters.elements.group ? filters.elements.group.value : "";
    const [sign, score] = filters.elements.order.value.split(" ");
    all.forEach((sample, index) => {
      const fits = words.every((word) => texts[index].includes(word));
      sample.hidden = !fits || (group !== "" && sample.dataset.group !== group);
    });
    const change = (sample) => Number(sign) * JSON.parse(sample.dataset.changes)[score];
    list.append(...(score === undefined ? all : [...all].sort((a, b) => change(b) - change(a))));
    const shown = all.filter((sample) => !sample.hidden).length;
    document.getElementById("shown").textContent = `${shown} of ${all.length} shown`;
  };
  filters.hidden = false;
  filters.addEventListener("input", update);
  filters.addEventListener("submit", (event) => event.preventDefault());
  update();
})();
