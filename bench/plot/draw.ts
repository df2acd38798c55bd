/**
 * Draws line charts as one SVG picture with ECharts, without a browser: a program of its own, that reads a description
 * as JSON from standard input and writes the picture to standard output. It has a configuration and a lock file of its
 * own, so that nobody who only serves disks downloads a drawing library. It must not know what the lines mean.
 */

import * as echarts from "echarts";
import type { Picture } from "../plot.ts";

const PANEL_WIDTH = 330;
const HEIGHT = 370;
/** Room inside a panel, left of and right of its axes. */
const LEFT = 62;
const RIGHT = 20;

function draw(picture: Picture): string {
  const width = PANEL_WIDTH * picture.panels.length;
  const chart = echarts.init(null, null, { renderer: "svg", ssr: true, width, height: HEIGHT });
  try {
    chart.setOption({
      animation: false,
      backgroundColor: "#ffffff",
      textStyle: { fontFamily: "sans-serif" },
      title: [heading(picture), ...picture.panels.map(({ title }, panel) => panelTitle(title, panel))],
      legend: { bottom: 2 },
      ...axes(picture),
      series: picture.panels.flatMap(({ lines }, panel) =>
        lines.map(({ name, colour, points }) => ({
          type: "line",
          name,
          xAxisIndex: panel,
          yAxisIndex: panel,
          symbolSize: 5,
          itemStyle: { color: colour },
          data: points,
        }))
      ),
    });
    return chart.renderToSVGString();
  } finally {
    chart.dispose();
  }
}

function heading({ title, subtitle }: Picture): echarts.EChartsCoreOption {
  const place = { left: 8, top: 4, itemGap: 4 };
  return { text: title, subtext: subtitle, ...place, textStyle: { fontSize: 14 }, subtextStyle: { fontSize: 10 } };
}

function panelTitle(text: string, panel: number): echarts.EChartsCoreOption {
  return { text, left: panel * PANEL_WIDTH + LEFT, top: 64, textStyle: { fontSize: 12, fontWeight: "normal" } };
}

function axes({ panels, xName }: Picture): echarts.EChartsCoreOption {
  const thousands = (value: number): string => value >= 1000 ? `${value / 1000}k` : String(value);
  const name = { name: xName, nameLocation: "middle", nameGap: 24 };
  return {
    grid: panels.map((_, panel) => ({
      left: panel * PANEL_WIDTH + LEFT,
      width: PANEL_WIDTH - LEFT - RIGHT,
      top: 90,
      bottom: 64,
    })),
    xAxis: panels.map((_, gridIndex) => ({ gridIndex, type: "log", logBase: 2, ...name })),
    yAxis: panels.map((_, gridIndex) => ({ gridIndex, type: "value", min: 0, axisLabel: { formatter: thousands } })),
  };
}

const picture: Picture = await new Response(Deno.stdin.readable).json();
await new Blob([draw(picture), "\n"]).stream().pipeTo(Deno.stdout.writable);
Deno.exit(0);
