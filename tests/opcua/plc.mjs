// A PLC: an OPC UA server with two arrays of UInt16. The first half of the words is "gate", the second half "plc".
// Arguments: port, number of words, folder for certificates, and for a secure one: certificate, key, certificate of the
// client, user, password. It prints what becomes of sessions.
import {readFileSync} from "node:fs";
import {DataType, MessageSecurityMode, SecurityPolicy, Variant, VariantArrayType} from "node-opcua-client";
import {OPCUACertificateManager} from "node-opcua-certificate-manager";
import {nodesets} from "node-opcua-nodesets";
import {OPCUAServer} from "node-opcua-server";

const [port, size, folder, certificateFile, privateKeyFile, trusted, user, password] = process.argv.slice(2);
const certificates = new OPCUACertificateManager({
  rootFolder: `${folder}/pki`,
  automaticallyAcceptUnknownCertificate: false,
});
await certificates.initialize();
const secure = certificateFile !== undefined;
if (secure) {
  await certificates.trustCertificate(certificateOf(trusted));
}
const server = new OPCUAServer({
  port: Number(port),
  hostname: "127.0.0.1",
  nodeset_filename: [nodesets.standard],
  serverCertificateManager: certificates,
  userCertificateManager: certificates,
  ...(secure ? {certificateFile, privateKeyFile} : {}),
  allowAnonymous: !secure,
  securityPolicies: secure ? [SecurityPolicy.Basic256Sha256] : [SecurityPolicy.None],
  securityModes: secure ? [MessageSecurityMode.SignAndEncrypt] : [MessageSecurityMode.None],
  userManager: {isValidUser: (name, given) => secure && name === user && given === password},
});
await server.initialize();
const space = server.engine.addressSpace;
const namespace = space.getOwnNamespace();
for (const name of ["gate", "plc"]) {
  const value = new Uint16Array(Number(size) / 2);
  namespace.addVariable({
    organizedBy: space.rootFolder.objects,
    nodeId: `s="Patchline"."${name}"`,
    browseName: name,
    dataType: "UInt16",
    valueRank: 1,
    arrayDimensions: [value.length],
    value: new Variant({dataType: DataType.UInt16, arrayType: VariantArrayType.Array, value}),
  });
}
server.on("session_activated", (session) => {
  console.log(`session of ${session.sessionTimeout} ms`);
  session.once("session_closed", (closed, deleted, reason) => console.log(`session ended: ${reason}`));
});
await server.start();
console.log("ready");

function certificateOf(file) {
  return Buffer.from(readFileSync(file, "latin1").replace(/-----[^-]+-----|\s/g, ""), "base64");
}
