// Validates a ScaledObject or TriggerAuthentication (JSON on stdin) with KEDA's schema: prints the error and exits with 1, or prints nothing.
import {readFileSync} from "node:fs";
import {ScaledObject} from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";
import {TriggerAuthentication} from "@kubernetes-models/keda/keda.sh/v1alpha1/TriggerAuthentication";

try {
  const document = JSON.parse(readFileSync(0));
  const kind = {ScaledObject, TriggerAuthentication}[document.kind];
  new kind(document).validate();
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
