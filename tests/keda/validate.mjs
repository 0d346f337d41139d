// Reads a ScaledObject as JSON; says what KEDA's schema has against it, and ends with 1, or says nothing.
import {readFileSync} from "node:fs";
import {ScaledObject} from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";

try {
  new ScaledObject(JSON.parse(readFileSync(0))).validate();
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
