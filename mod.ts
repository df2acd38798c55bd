/**
 * The library's public face: re-exports only. What a program needs that embeds the backend, or that brings its own
 * hypervisor, disk or storage engine.
 *
 * @module
 */

export * from "./lib/errors.ts";
export * from "./lib/hypervisor.ts";
