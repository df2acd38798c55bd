/**
 * What the man pages say that no table of the command line has: environment variables, files, and the exit statuses in
 * words. A test compares the variables with those that the code reads.
 */

/** A name, and what it is for in whole sentences. */
export type Fact = readonly [name: string, text: string];

/** The variables that the program reads. */
export const ENVIRONMENT: readonly Fact[] = [
  [
    "XENBLK_LIBXENGNTTAB, XENBLK_LIBXENEVTCHN, XENBLK_LIBXENTOOLLOG, XENBLK_LIBC",
    "The path of a library, if it is in an unusual place.",
  ],
  ["XENBLK_QEMU_STORAGE_DAEMON, XENBLK_QEMU_IMG", "The path of QEMU's programs for images of other formats than raw."],
  ["XENBLK_JOURNAL_DIR", "The folder of journals, locks and records, instead of /run/xenblk."],
  [
    "XENSTORED_PATH, XENSTORED_RUNDIR",
    "xenstored's socket, or the folder in which it has the name socket. The default is /run/xenstored, and /dev/xen/xenbus if there is no socket.",
  ],
  [
    "XENBLK_HOTPLUG_SECONDS, XENBLK_HOTPLUG_WAIT_SECONDS",
    "How long block-xenblk waits for an answer, and for a disk that waits for its image's lock.",
  ],
  [
    "XENBLK_LOG_FORMAT",
    "The form of the log's lines: plain, time, journal, json or auto, the default, which is journal below systemd, plain on a terminal and time elsewhere.",
  ],
  ["CREDENTIALS_DIRECTORY", "The folder of systemd's credentials, where passphrases of images are found by name."],
];

/** The files that the program and its package use. */
export const FILES: readonly Fact[] = [
  [
    "/run/xenblk",
    "Journals, locks, and the record of failed flushes. It must survive a restart of the process, or requests in flight are lost after a crash.",
  ],
  ["/etc/xenblk/config.toml", "Defaults of serve and settings of single disks; xenblk config check checks it."],
  ["/var/cache/xenblk", "What Deno keeps when root runs the packaged command. It may be removed at any time."],
  ["/etc/xen/scripts/block-xenblk", "The hotplug script that xl runs for a disk with script=block-xenblk."],
];

/** What the exit statuses mean. */
export const EXIT_STATUS: readonly Fact[] = [
  ["0", "Done."],
  ["1", "Failed."],
  ["2", "Usage: an option or operand is wrong."],
  ["3", "There is no such domain or device."],
  ["4", "The guest did not answer in time."],
  ["5", "The hypervisor is missing, or its use is not permitted."],
  ["6", "image check: the image is corrupt."],
  ["7", "image check: the image has leaks, and no worse."],
  [
    "129, 130, 143",
    "Ended at once by a second HUP, INT or TERM. A dry run or an image verb ends so by the first.",
  ],
];
