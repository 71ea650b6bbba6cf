// Draws the charts that the page holds as JSON, in the colours of the page's theme.
(() => {
  "use strict";
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const draw = () => {
    for (const [key, chart] of Object.entries(charts)) {
      Plotly.react(key, chart.data, chartTheme.themed(chart.layout), chartTheme.config);
    }
  };
  draw();
  chartTheme.onChange(draw);
})();
