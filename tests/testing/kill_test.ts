/**
 * A service that is killed under load, at once or right before a notification, and the next one that takes over: no
 * request is lost, every byte is right, and nothing of the killed process is left.
 */

import { assertEquals } from "@std/assert";
import { SILENT } from "../../lib/log.ts";
import { testHost } from "../../testing.ts";

const MIB = 2 ** 20;
const QUIET = { logger: SILENT, workers: 1 };

for (const grants of ["copy", "persistent"] as const) {
  Deno.test(`a service that is killed under load loses no request, ${grants}`, async () => {
    const image = await Deno.makeTempFile();
    using _image = { [Symbol.dispose]: () => Deno.removeSync(image) };
    Deno.truncateSync(image, 4 * MIB);
    await using host = await testHost();
    const guest = await host.startGuest();
    let service = await host.serve({ ...QUIET, settings: { grants } });
    const { vdev } = guest.addDisk({ image });
    await using drive = await guest.connect(vdev);
    const load = drive.load({ requests: 3000, depth: 16, flushEvery: 20 });
    for (const beforeNotification of [true, false, true]) {
      const answered = drive.progress.requests;
      await service.kill({ beforeNotification });
      service = await host.serve({ ...QUIET, settings: { grants } });
      while (drive.progress.requests === answered) await new Promise((resolve) => setTimeout(resolve, 1));
    }
    const { errors, miscompares, unanswered, protocolErrors } = await load;
    assertEquals([errors, miscompares, unanswered, protocolErrors], [0, 0, 0, 0]);
    await drive.disconnect();
    await service.close();
    assertEquals(host.holdings().usage.mappedPages, 0);
  });
}
