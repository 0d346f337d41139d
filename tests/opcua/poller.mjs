// A PLC program as an OPC UA client. It reads lines of JSON and answers each with one:
//   {"read": [name, ...]}           all in one Read: {"values": [...]}
//   {"write": [[name, type, value], ...]}   all in one Write: {"statuses": [...]}
//   {"describe": name}              {"type": ..., "description": ..., "definition": ..., "writable": ...}
//   {"watch": [name, ...]}          {"watching": n}; then {"changed": name, "value": ...} for each change
//   {"events": [field, ...]}        {"watching": n}; then {"event": [...]} for each event of the server
//   {"login": [url, folder, ...]}   comes first, and ends an earlier session: {"connected": true} or {"error": ...}.
//                                   The folder is for certificates. For a secure server, its certificate and key follow,
//                                   the certificate of the server, a user and a password.
import {createInterface} from "node:readline";
import {readFileSync} from "node:fs";
import {
  AttributeIds, constructEventFilter, DataType, MessageSecurityMode, OPCUAClient, SecurityPolicy, TimestampsToReturn,
  UserTokenType, Variant,
} from "node-opcua-client";
import {OPCUACertificateManager} from "node-opcua-certificate-manager";

const nodeId = (name) => `ns=2;s=VisionSystem.${name}`;
const say = (answer) => console.log(JSON.stringify(answer));
const plain = ({value}) => (value instanceof Object && "text" in value ? value.text : value);

let client, clientCertificateManager, session, subscription;

async function login(url, folder, certificateFile, privateKeyFile, trusted, userName, password) {
  await logout();
  clientCertificateManager = new OPCUACertificateManager({
    rootFolder: `${folder}/pki`, automaticallyAcceptUnknownCertificate: false,
  });
  await clientCertificateManager.initialize();
  let options = {endpointMustExist: false, connectionStrategy: {maxRetry: 0}, clientCertificateManager};
  if (certificateFile) {
    const pem = readFileSync(trusted, "latin1");
    await clientCertificateManager.trustCertificate(Buffer.from(pem.replace(/-----[^-]+-----|\s/g, ""), "base64"));
    options = {
      ...options, certificateFile, privateKeyFile,
      securityMode: MessageSecurityMode.SignAndEncrypt, securityPolicy: SecurityPolicy.Basic256Sha256,
    };
  }
  const user = userName ? {type: UserTokenType.UserName, userName, password} : undefined;
  client = OPCUAClient.create(options);
  await client.connect(url);
  session = await client.createSession(user);
  return {connected: true};
}

async function logout() {
  await client?.disconnect();
  await clientCertificateManager?.dispose();
  client = clientCertificateManager = session = subscription = undefined;
}

async function subscribed() {
  return (subscription ??= await session.createSubscription2({
    requestedPublishingInterval: 50,
    publishingEnabled: true,
    requestedLifetimeCount: 1000,
    requestedMaxKeepAliveCount: 10,
  }));
}

async function monitor(item, parameters, changed) {
  const monitored = await (await subscribed()).monitor(item, parameters, TimestampsToReturn.Neither);
  monitored.on("changed", changed);
}

for await (const line of createInterface({input: process.stdin})) {
  const request = JSON.parse(line);
  if (request.login) {
    say(await login(...request.login).catch((error) => ({error: error.message})));
  } else if (request.read) {
    const items = request.read.map((name) => ({nodeId: nodeId(name), attributeId: AttributeIds.Value}));
    say({values: (await session.read(items)).map((answer) => plain(answer.value))});
  } else if (request.write) {
    const items = request.write.map(([name, type, value]) => ({
      nodeId: nodeId(name), attributeId: AttributeIds.Value,
      value: {value: new Variant({dataType: DataType[type], value})},
    }));
    say({statuses: (await session.write(items).catch((error) => [error.message])).map(String)});
  } else if (request.describe) {
    const ids = ["DataType", "Description", "UserAccessLevel"].map((name) => AttributeIds[name]);
    const items = ids.map((attributeId) => ({nodeId: nodeId(request.describe), attributeId}));
    const [type, description, level] = await session.read(items);
    const writable = (level.value.value & 2) > 0;
    say({type: type.value.value.toString(), description: description.value.value.text, writable});
  } else if (request.watch) {
    for (const name of request.watch) {
      const item = {nodeId: nodeId(name), attributeId: AttributeIds.Value};
      await monitor(item, {samplingInterval: 0, queueSize: 1000, discardOldest: true},
        (answer) => say({changed: name, value: plain(answer.value)}));
    }
    say({watching: request.watch.length});
  } else if (request.events) {
    const item = {nodeId: "ns=0;i=2253", attributeId: AttributeIds.EventNotifier};
    const filter = constructEventFilter(request.events);
    await monitor(item, {filter, queueSize: 1000, discardOldest: true, samplingInterval: 0},
      (fields) => say({event: fields.map((field) => plain(field))}));
    say({watching: 1});
  }
}
await logout();
