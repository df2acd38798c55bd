/**
 * What a log line says of a grant that could not be copied, mapped or unmapped: what failed, the grant reference, and
 * the reason in words.
 */

import { errnoName } from "../../errno.ts";

/** No grant of the request has failed. A constant of its own, because the compiler does not fold properties. */
export const NO_GRANT_FAILURE = 0;
/** What failed of a request's grants; see `SlotTable.grantFailed`. */
export const GRANT_FAILURE = {
  /** The status is a GNTST_* value. */
  copyFromGuest: 1,
  copyToGuest: 2,
  /** The status is a negative errno: the call itself failed, or mapping or unmapping the request's pages. */
  copyCall: 3,
  map: 4,
  unmap: 5,
} as const;
/** One of {@linkcode GRANT_FAILURE}. */
export type GrantFailure = (typeof GRANT_FAILURE)[keyof typeof GRANT_FAILURE];

const WHAT = [
  "",
  "copying from the guest's page failed",
  "copying to the guest's page failed",
  "the grant copy call failed",
  "the guest's pages could not be mapped",
  "the guest's pages could not be unmapped",
];

/** The GNTST_* values from -1 down, with the texts of xen/include/public/grant_table.h. */
const GNTST = [
  "undefined error (GNTST_general_error)",
  "unrecognised domain id (GNTST_bad_domain)",
  "invalid grant reference (GNTST_bad_gntref)",
  "invalid mapping handle (GNTST_bad_handle)",
  "invalid virtual address (GNTST_bad_virt_addr)",
  "invalid device address (GNTST_bad_dev_addr)",
  "no spare translation slot in the I/O MMU (GNTST_no_device_space)",
  "permission denied: revoked, or granted read-only (GNTST_permission_denied)",
  "bad page (GNTST_bad_page)",
  "copy arguments cross page boundary (GNTST_bad_copy_arg)",
  "page address size too large (GNTST_address_too_big)",
  "operation not done; try again (GNTST_eagain)",
  "out of space (GNTST_no_space)",
];

/** What a slot table knows of failed grants, by slot. */
interface FailedGrants {
  readonly grantFailed: Uint8Array;
  readonly failedGref: Uint32Array;
  readonly failedStatus: Int32Array;
  readonly segmentCount: { readonly [slot: number]: number };
}

/** `copying to the guest's page failed: grant reference 8: permission denied ...`, for a slot with a failed grant. */
export function grantFailureText(slots: FailedGrants, slot: number): string {
  const { grantFailed, failedGref, failedStatus, segmentCount } = slots;
  const failure = grantFailed[slot]!;
  const status = failedStatus[slot]!;
  const copied = failure === GRANT_FAILURE.copyFromGuest || failure === GRANT_FAILURE.copyToGuest;
  const count = segmentCount[slot]!;
  const some = copied || count <= 1 ? "" : `one of ${count} grants, the first with `;
  const reason = copied
    ? GNTST[-1 - status] ?? `status ${status}`
    : status < 0
    ? errnoName(-status)
    : `status ${status}`;
  return `${WHAT[failure]}: ${some}grant reference ${failedGref[slot]}: ${reason}`;
}
