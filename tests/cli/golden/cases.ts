/**
 * The command lines of the golden files, by the file's name. Each verb's `--help` is there without being named here. To add
 * a command, add its line and run `deno task golden`. What a command prints must not depend on the machine: no figures
 * that are measured, no paths of temporary files.
 */

/** Command lines after `xenblk`, in words that spaces part. */
export const CASES: Readonly<Record<string, readonly string[]>> = {
  "xenblk": ["", "--help", "help list", "doctr", "--json", "image", "image --help", "image chek", "list -V"],
  "attach": [
    "attach",
    "attach web",
    "attach web disk.img disk1",
    "attach web disk.img --grant copy",
    "attach web disk.img --queues 99",
    "attach web disk.img --timeout -1",
    "attach web rwa:disk.img",
    "attach nobody disk.img",
    "attach web none.img",
    "attach web none.img --json",
    "attach web none.img xvda",
    "attach web --overlay base.qcow2",
  ],
  "serve": [
    "serve nothing",
    "serve --image disk.img",
    "serve --filter throtle",
    "serve backend/vbd3/1/51712 --kind qdisk",
  ],
  "detach": ["detach", "detach web", "detach nobody xvda", "detach web xvdz", "detach web disk1", "detach web xvdz -J"],
  "resize": [
    "resize web",
    "resize web xvda 10",
    "resize web xvdz",
    "resize web xvdb",
    "resize web xvdb --json",
    "resize web xvda 1G 2G",
  ],
  "limit": [
    "limit web",
    "limit web xvdb",
    "limit web xvdb --iops many",
    "limit web xvdb --bytes-per-second fast",
    "limit web xvdb --json",
  ],
  "weight": [
    "weight web",
    "weight web xvdb",
    "weight web xvdb 0",
    "weight web xvdb 1001",
    "weight web xvdb 200 --json",
  ],
  "events": ["events now"],
  "list": ["list", "list web", "list --no-headings", "list nobody", "list nobody --json", "list web xvda"],
  "show": ["show", "show web xvda", "show web xvdb", "show db xvda", "show nobody xvda", "show web xvda --jsn"],
  "top": ["top --sort await", "top --delay 0", "top web", "top -n 0 --json"],
  "dry-run": [
    "dry-run none.img",
    "dry-run --write",
    "dry-run --seed x",
    "dry-run none.img --json",
    "dry-run --depth 99",
  ],
  "replay": ["replay", "replay none.trace", "replay none.trace none.img", "replay none.trace none.img --json"],
  "image create": [
    "image create",
    "image create a.qcow2",
    "image create raw:a.img 1000",
    "image create a.luks 1G --format luks",
  ],
  "image info": ["image info", "image info none.img", "image info none.img --json", "image info memory:1M"],
  "image convert": ["image convert none.img", "image convert none.img a.qcow2", "image convert none.img a.qcow2 -J"],
  "image check": ["image check", "image check none.img", "image check none.img --repair some"],
  "image map": ["image map", "image map none.img"],
  "config check": ["config", "config check none.toml", "config check --jsn", "config check a.toml b.toml"],
  "config show": [
    "config show web",
    "config show web disk1",
    "config show --config none.toml",
    "config show --config a.toml --no-config",
    "config show --no-config --engine file --workers 2",
    "config show web xvda --no-config --cache none",
  ],
  "doctor": ["doctor web"],
  "log-level": ["log-level loud", "log-level --pid 0"],
  "install": ["install web"],
  "uninstall": ["uninstall web"],
  "completion": ["completion", "completion ksh"],
};
