// A foreign client: loads proto/ and nothing else of this repository, then submits a job, watches it and streams its ranking.
//   node client.mjs PROTO_DIR INFLUENCE_TARGET EMBEDDING_TARGET MODEL_URI TRAIN_URI TEST_URI
// Prints one JSON object.

import { randomUUID } from 'node:crypto';
import { promisify } from 'node:util';

import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

import { chunkChecksum } from './crc32c.mjs';

const [protoDir, influenceTarget, embeddingTarget, model, train, test] = process.argv.slice(2);
const PARENT = 'projects/node';

const definition = protoLoader.loadSync(
  ['eif/influence/v1/influence_service.proto', 'eif/embedding/v1/embedding_service.proto'],
  { includeDirs: [protoDir], keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true },
);
const { eif } = grpc.loadPackageDefinition(definition);
const influence = new eif.influence.v1.InfluenceService(influenceTarget, grpc.credentials.createInsecure());
const embedding = new eif.embedding.v1.EmbeddingService(embeddingTarget, grpc.credentials.createInsecure());

const inSeconds = (seconds) => ({ deadline: Date.now() + 1000 * seconds });
const call = (client, method, request) =>
  promisify((...args) => client[method](...args))(request, new grpc.Metadata(), inSeconds(30));

async function submit() {
  const request = {
    parent: PARENT,
    request_id: randomUUID(),
    influence_job: {
      display_name: 'from node',
      labels: { language: 'javascript' },
      rank: {
        model: { uri: model },
        train_manifest: { uri: train },
        test_manifest: { uri: test },
        queries: { kind: 'KIND_CONFUSION_PAIRS', max_queries: 3 },
        influence: { radius: 1.0 },
        top_k: 4,
      },
    },
  };
  const job = await call(influence, 'CreateInfluenceJob', request);
  const again = await call(influence, 'CreateInfluenceJob', request);
  return { job, sameJob: again.uid === job.uid };
}

async function watch(name) {
  const states = [];
  let last;
  for await (const event of influence.WatchInfluenceJob({ name }, inSeconds(120))) {
    last = event.influence_job;
    if (last.state !== states.at(-1)) states.push(last.state);
  }
  return { states, last };
}

// Reads one chunk, drops the connection, and goes on with the token.
async function stream(name) {
  const chunks = [];
  const first = influence.StreamRankedSamples({ name, chunk_rows: 7 }, inSeconds(30));
  for await (const chunk of first) {
    chunks.push(chunk);
    break; // leaving the loop destroys the stream, which cancels the call
  }
  const request = { name, chunk_rows: 7, resume_token: chunks[0].resume_token };
  for await (const chunk of influence.StreamRankedSamples(request, inSeconds(30))) chunks.push(chunk);
  return chunks;
}

async function refusal(name) {
  try {
    await call(influence, 'GetInfluenceJob', { name });
  } catch (error) {
    const [details] = error.metadata.get('grpc-status-details-bin');
    return { code: grpc.status[error.code], hasReason: details.includes('JOB_NOT_FOUND') };
  }
  throw new Error('an unknown job was found');
}

const { job, sameJob } = await submit();
const { states, last } = await watch(job.name);
const chunks = await stream(job.name);
const pairs = await call(influence, 'ListJobResults', { name: job.name, table: 'RESULT_TABLE_PAIRS' });
const result = {
  job: { name: job.name, displayName: job.display_name, labels: job.labels, spec: job.spec },
  sameJob,
  states,
  tables: last.output.tables.map((table) => table.name),
  ranks: chunks.map((chunk) => chunk.first_rank),
  sampleIds: chunks.flatMap((chunk) => chunk.sample_ids),
  scores: chunks.flatMap((chunk) => chunk.scores),
  checksums: chunks.map((chunk) => chunkChecksum(chunk) === chunk.crc32c),
  pairs: pairs.rows.map((row) => row[row.row]),
  refusal: await refusal(`${PARENT}/influenceJobs/nope`),
  provider: (await call(embedding, 'GetServerInfo', {})).execution_provider,
};
console.log(JSON.stringify(result));
influence.close();
embedding.close();
