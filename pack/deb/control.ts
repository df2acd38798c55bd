/**
 * The control files of the Debian package: its fields, its conffiles and sums, the maintainer scripts, and the texts that
 * Debian expects below /usr/share/doc.
 */

import { createHash } from "node:crypto";
import type { LockedPackage } from "./fetched.ts";
import type { Tree } from "./tree.ts";

/** What the fields are made of. */
export interface Release {
  readonly version: string;
  /** Seconds since 1970: the date of everything in the package. */
  readonly date: number;
}

const MAINTAINER = "The xenblk project <xenblk@users.noreply.github.com>";

/** The file `control`. */
export function control({ version }: Release, installedBytes: number): string {
  return `Package: xenblk
Version: ${version}
Architecture: amd64
Maintainer: ${MAINTAINER}
Installed-Size: ${Math.ceil(installedBytes / 1024)}
Depends: libc6 (>= 2.27), libgcc-s1, libxenevtchn1, libxengnttab1, passwd
Recommends: qemu-utils, qemu-utils (>= 1:8.0+dfsg-5) | qemu-system-common, xenstore-utils
Suggests: xen-system-amd64
Section: admin
Priority: optional
Description: Xen paravirtual block backend
 xenblk serves disk images to Xen guests through the blkif ring protocol, as
 the kernel's blkback and QEMU's qdisk do. Guests use their own driver.
 .
 It serves raw files and block devices with io_uring, and images of QEMU's
 formats (qcow2, vmdk, vhdx, ...) and stores (nbd, rbd, iscsi, ...) through
 qemu-storage-daemon. A restart or crash of the process costs a guest a pause,
 and no request.
 .
 The package has its own Deno and downloads nothing.
`;
}

/** The file `md5sums`: all but what an operator may change. */
export function md5sums(tree: Tree): string {
  return [...tree].filter(([path]) => !path.startsWith("etc/") && !path.endsWith("/"))
    .map(([path, { bytes }]) => `${createHash("md5").update(bytes).digest("hex")}  ${path}\n`).join("");
}

/** The changelog in Debian's form; what changed is in CHANGELOG.md beside it. */
export function debianChangelog({ version, date }: Release): string {
  const day = new Date(date * 1000).toUTCString().replace("GMT", "+0000");
  const what = `  * Version ${version} of xenblk: see CHANGELOG.md in this folder.`;
  return `xenblk (${version}) unstable; urgency=medium\n\n${what}\n\n -- ${MAINTAINER}  ${day}\n`;
}

const MIT = `License: MIT
 Permission is hereby granted, free of charge, to any person obtaining a copy of
 this software and associated documentation files (the "Software"), to deal in
 the Software without restriction, including without limitation the rights to
 use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of
 the Software, and to permit persons to whom the Software is furnished to do so,
 subject to the following conditions:
 .
 The above copyright notice and this permission notice shall be included in all
 copies or substantial portions of the Software.
 .
 THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
 IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS
 FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
 COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER
 IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
 CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
`;

/** An npm package in the package, and the license that its package.json names. */
export interface Licensed extends LockedPackage {
  readonly license: string;
}

/** The file `copyright`. */
export function copyright(program: string, dependencies: readonly Licensed[]): string {
  const others = dependencies.map(({ name, version, license }) =>
    `Files: ${program}/node_modules/${name}/*
Copyright: the authors of ${name}
License: ${license}
Comment: The npm package ${name} ${version}.

`
  );
  return `Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: xenblk

Files: *
Copyright: the contributors of xenblk
License: GPL-2.0-or-later
 This program is free software; you can redistribute it and/or modify it under
 the terms of the GNU General Public License as published by the Free Software
 Foundation; either version 2 of the License, or (at your option) any later
 version.
 .
 On Debian systems the text is in /usr/share/common-licenses/GPL-2.

Files: ${program}/deno
Copyright: 2018-2026 the Deno authors
License: MIT
Comment: The program contains V8 (BSD-3-Clause) and libraries in Rust, mostly
 under MIT or Apache-2.0; https://github.com/denoland/deno lists them.

${others.join("")}${MIT}`;
}
