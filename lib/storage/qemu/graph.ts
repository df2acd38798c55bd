/**
 * What a storage daemon opens for one disk, as QEMU's blockdev-add names it: every node by name, from the files of the
 * last backing image up to the format that the guest sees. No node is left to be opened implicitly, so the daemon opens
 * only what is named here.
 */

/** One node, as blockdev-add takes it; see QEMU's qapi/block-core.json, BlockdevOptions. */
export interface BlockNode {
  /** Unique in the daemon; at most 31 bytes. */
  readonly "node-name": string;
  /** A protocol (`file`, `host_device`, `nbd`, ...) or a format (`raw`, `qcow2`, ...). */
  readonly driver: string;
  /** The driver's own. */
  readonly [option: string]: unknown;
}

/** A local file or device that the daemon opens. */
export interface GraphFile {
  /** Absolute. */
  readonly path: string;
  /** Opened for writing. */
  readonly writable: boolean;
}

/** A secret that nodes refer to: `--object secret,id=,file=`. Its value is never here. */
export interface GraphSecret {
  /** Unique in the daemon. */
  readonly id: string;
  /** Absolute path of the file that holds it. */
  readonly file: string;
}

/** TLS credentials that nodes refer to: `--object tls-creds-x509,id=,dir=,endpoint=client`. */
export interface GraphCredentials {
  /** Unique in the daemon. */
  readonly id: string;
  /** Absolute path of the directory that holds `ca-cert.pem`, and `client-cert.pem` and `client-key.pem` if needed. */
  readonly directory: string;
}

/** A disk as a storage daemon opens it. Structured-cloneable. */
export interface BlockGraph {
  /** In the order in which blockdev-add must add them. The last one is the disk. */
  readonly nodes: readonly BlockNode[];
  /** The name of the node that is exported. */
  readonly top: string;
  /** For the daemon's confinement, and to find other users of the image. */
  readonly files: readonly GraphFile[];
  /** To be created before the nodes. */
  readonly secrets: readonly GraphSecret[];
  /** To be created before the nodes. Absent: none. */
  readonly credentials?: readonly GraphCredentials[];
}
