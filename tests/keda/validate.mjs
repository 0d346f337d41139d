// Validates a ScaledObject (JSON on stdin) with KEDA's schema: prints the error and exits with 1, or prints nothing.
import {readFileSync} from "node:fs";
import {ScaledObject} from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";

try {
  new ScaledObject(JSON.parse(readFileSync(0))).validate();
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
