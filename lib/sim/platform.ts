/**
 * The simulated hypervisor as one domain sees it: puts memory, grants, event channels and parking together into a
 * Platform over one machine. Any number of threads may open it.
 */

import { sharedNow } from "../clock.ts";
import { PAGE_BYTES } from "../units.ts";
import {
  type DomId,
  type EventChannels,
  type GrantShares,
  type GrantTable,
  type JournalStore,
  type MemorySpace,
  type OwnedMemory,
  type Parker,
  type Platform,
  type PlatformDescriptor,
  type Waker,
  type WakeToken,
} from "../hypervisor.ts";
import { closeDomainPorts, SimulatedEventChannels } from "./events.ts";
import { endDomainGrants, SimulatedGrantShares, SimulatedGrantTable } from "./grants.ts";
import { journalsOf } from "./journals.ts";
import { Machine, type MachineUsage } from "./machine.ts";
import { createWakeToken, SimulatedParker, SimulatedWaker } from "./park.ts";

/** Names a machine as one of its domains sees it. */
export interface SimulatedDescriptor extends PlatformDescriptor {
  readonly machine: SharedArrayBuffer;
  readonly domain: number;
}

/** See PlatformModule. Throws as {@linkcode openSimulatedPlatform} does. */
export function openPlatform({ machine, domain }: SimulatedDescriptor): Platform {
  return openSimulatedPlatform(machine, domain);
}

/** The descriptor of a machine as one of its domains sees it. */
export function simulatedDescriptor(machine: SharedArrayBuffer, domain: number): SimulatedDescriptor {
  return { module: import.meta.url, machine, domain };
}

/** Opens a machine as one of its domains. Throws TypeError for no machine, RangeError for no such domain. */
export function openSimulatedPlatform(machine: SharedArrayBuffer, domain: number): Platform {
  const opened = new Machine(machine);
  if (!(domain >= 0 && domain < opened.domains)) throw new RangeError(`the simulated machine has no domain ${domain}`);
  return new SimulatedPlatform(opened, domain as DomId);
}

/** What of a machine is in use, for leak checks. */
export function machineUsage(machine: SharedArrayBuffer): MachineUsage {
  return new Machine(machine).usage();
}

/**
 * What the hypervisor does when a domain dies: its ports close (no other domain can bind to the other ends), its
 * grants end, and what it had mapped is unmapped. Its threads must no longer run.
 */
export function destroyDomain(machine: SharedArrayBuffer, domain: DomId): void {
  const opened = new Machine(machine);
  closeDomainPorts(opened, domain);
  endDomainGrants(opened, domain);
}

class SimulatedPlatform implements Platform {
  readonly descriptor: SimulatedDescriptor;
  readonly memory: MemorySpace;
  readonly journals: JournalStore;
  readonly #machine: Machine;
  readonly #domain: DomId;

  constructor(machine: Machine, domain: DomId) {
    this.descriptor = simulatedDescriptor(machine.buffer, domain);
    this.memory = new SimulatedMemory(machine);
    this.journals = journalsOf(machine.buffer, this.memory);
    this.#machine = machine;
    this.#domain = domain;
  }

  openGrantTable(guest: DomId): GrantTable {
    return new SimulatedGrantTable(this.#machine, this.#domain, guest);
  }

  openEventChannels(other: DomId): EventChannels {
    return new SimulatedEventChannels(this.#machine, this.#domain, other);
  }

  openGrantShares(): GrantShares {
    return new SimulatedGrantShares(this.#machine, this.#domain);
  }

  createWakeToken(): WakeToken & Disposable {
    return createWakeToken(this.#machine);
  }

  openParker(token: WakeToken): Parker {
    return new SimulatedParker(this.#machine, token);
  }

  openWaker(token: WakeToken): Waker {
    return new SimulatedWaker(this.#machine, token);
  }

  now(): number {
    return sharedNow();
  }
}

/** Memory of the machine: an address is an offset into its buffer. */
class SimulatedMemory implements MemorySpace {
  readonly #machine: Machine;

  constructor(machine: Machine) {
    this.#machine = machine;
  }

  allocate(lengthBytes: number): OwnedMemory {
    const machine = this.#machine;
    const count = Math.ceil(lengthBytes / PAGE_BYTES);
    const frame = machine.takeFrames(count);
    const address = frame * PAGE_BYTES;
    let taken = true;
    return {
      address,
      view: this.view(address, lengthBytes),
      [Symbol.dispose]: () => {
        if (taken) machine.freeFrames(frame, count);
        taken = false;
      },
    };
  }

  view(address: number, lengthBytes: number): Uint8Array {
    return new Uint8Array(this.#machine.buffer, address, lengthBytes);
  }
}
