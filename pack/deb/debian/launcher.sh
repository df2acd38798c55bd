#!/bin/sh
# Runs xenblk with the Deno of its own package, which downloads nothing. DENO_DIR is Deno's cache: modules that an
# operator allows a plugin to import, and little else.
if [ -z "${DENO_DIR:-}" ] && [ -w /var/cache/xenblk ]; then
  DENO_DIR=/var/cache/xenblk
  export DENO_DIR
fi
DENO_NO_UPDATE_CHECK=1
export DENO_NO_UPDATE_CHECK
# With this flag V8 inlines more into the loop that serves rings.
exec @PROGRAM@/deno run -A --quiet --v8-flags=--max-inlined-bytecode-size-cumulative=3000 \
  --no-lock --no-remote --no-config --node-modules-dir=manual --no-code-cache \
  @PROGRAM@/node_modules/xenblk/cli.js "$@"
