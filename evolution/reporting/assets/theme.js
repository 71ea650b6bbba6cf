// The colours of the page's theme for charts that know none.
const chartTheme = (() => {
  "use strict";
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 560px)");

  const theme = () => {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = {
      gridcolor: colour("--grid"), linecolor: colour("--line"), zerolinecolor: colour("--line"),
      tickcolor: colour("--line"),
    };
    return { ink: colour("--ink"), soft: colour("--soft"), panel: colour("--panel"),
             line: colour("--line"), axis };
  };

  const themed = (layout) => {
    const { ink, soft, panel, line, axis } = theme();
    const size = narrow.matches ? 11 : 12;
    return {
      ...layout,
      dragmode: narrow.matches ? false : "zoom", // on a phone a finger scrolls
      font: { color: ink, size, family: getComputedStyle(document.body).fontFamily },
      xaxis: { ...layout.xaxis, ...axis },
      yaxis: { ...layout.yaxis, ...axis },
      legend: { ...layout.legend, font: { color: soft, size } },
      hoverlabel: { ...layout.hoverlabel, bgcolor: panel, bordercolor: line, font: { color: ink } },
    };
  };

  return {
    themed,
    config: { displayModeBar: false, responsive: true },
    onChange: (draw) => [dark, narrow].forEach((query) => query.addEventListener("change", draw)),
  };
})();
