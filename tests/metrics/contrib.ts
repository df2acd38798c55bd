/**
 * What is in contrib for Prometheus and Grafana: the expressions of the dashboard and of the alerts.
 */

import { ROOT } from "../house/source.ts";

/** The alerts, for Prometheus' rule_files. */
export const ALERTS = `${ROOT}contrib/prometheus/alerts.yml`;

interface Target {
  readonly expr: string;
  readonly legendFormat: string;
}

interface Panel {
  readonly title: string;
  readonly targets?: readonly Target[];
}

interface Variable {
  readonly name: string;
  readonly type: string;
  readonly definition?: string;
}

interface Dashboard {
  readonly panels: readonly Panel[];
  readonly templating: { readonly list: readonly Variable[] };
}

/** A query of the dashboard, and the panel that shows it. */
export interface Query extends Target {
  readonly panel: string;
}

function dashboard(): Dashboard {
  return JSON.parse(Deno.readTextFileSync(`${ROOT}contrib/grafana/xenblk.json`));
}

/** All queries of the panels. */
export function queries(): readonly Query[] {
  return dashboard().panels.flatMap(({ title, targets = [] }) =>
    targets.map((target) => ({ panel: title, ...target }))
  );
}

/** The variables of the dashboard that ask Prometheus for their values: a metric and a label each. */
export function variables(): readonly { readonly name: string; readonly metric: string; readonly label: string }[] {
  return dashboard().templating.list.flatMap(({ name, definition = "" }) => {
    const [, metric, label] = /^label_values\((\w+)(?:\{.*\})?, (\w+)\)$/.exec(definition) ?? [];
    return metric === undefined || label === undefined ? [] : [{ name, metric, label }];
  });
}

/** A query with all guests and disks, over so many seconds. */
export function filledIn({ expr }: Query, seconds: number): string {
  return expr.replaceAll("$__rate_interval", `${seconds}s`).replaceAll(/\$(domain|vdev|instance)\b/g, ".*");
}
