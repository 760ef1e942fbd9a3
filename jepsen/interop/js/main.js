// The npm client etcd3 against one server: KV, txn, watch, lease. Use: node main.js ENDPOINT
'use strict';
const assert = require('node:assert/strict');
const { Etcd3, EtcdLeaseInvalidError } = require('etcd3');

// Fails after some seconds, so that a silent server is a failure and not a hang.
const within = (what, promise, seconds = 10) => {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing for ${seconds} s`)), seconds * 1000);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
};
const sleep = milliseconds => new Promise(done => setTimeout(done, milliseconds));

async function keyValue(root) {
  const kv = root.namespace('kv/');
  await kv.put('a').value('1');
  await kv.put('a').value('2');
  await kv.put('b').value(Buffer.from([0, 255, 1]));
  await kv.put('c').value('3');
  assert.equal(await kv.get('a').string(), '2');
  assert.deepEqual(await kv.get('b').buffer(), Buffer.from([0, 255, 1]));
  assert.equal(await kv.get('missing').string(), null);
  const raw = await kv.get('a').exec();
  assert.equal(raw.kvs[0].version, '2');
  const old = await kv.get('a').revision(Number(raw.kvs[0].create_revision)).string();
  assert.equal(old, '1');
  assert.deepEqual(await kv.getAll().keys(), ['a', 'b', 'c']);
  const page = await kv.getAll().sort('Key', 'Descend').limit(2).exec();
  assert.equal(page.count, '3');
  assert.equal(page.more, true);
  assert.equal(page.kvs.length, 2);
  assert.equal(await kv.getAll().count(), 3);
  const gone = await kv.delete().range({ start: Buffer.from('a'), end: Buffer.from('c') }).getPrevious();
  assert.equal(gone.length, 2);
  const rest = await kv.delete().all();
  assert.equal(rest.deleted, '1');
}

async function transactions(root) {
  const kv = root.namespace('txn/');
  const create = value =>
    kv.if('a', 'Create', '==', 0).then(kv.put('a').value(value)).else(kv.get('a')).commit();
  const made = await create('1');
  assert.equal(made.succeeded, true);
  const kept = await create('2');
  assert.equal(kept.succeeded, false);
  assert.equal(kept.responses[0].response_range.kvs[0].value.toString(), '1');
  const both = await kv
    .if('a', 'Value', '==', '1').and('a', 'Version', '>', 0)
    .then(kv.put('b').value('x'), kv.delete().key('a')).commit();
  assert.equal(both.succeeded, true);
  assert.deepEqual(await kv.getAll().strings(), { b: 'x' });
  // Software transactional memory, built on the same txns.
  await kv.stm().transact(async tx => {
    const value = await tx.get('b').string();
    await tx.put('b').value(value + 'y');
  });
  assert.equal(await kv.get('b').string(), 'xy');
}

async function watches(root) {
  const kv = root.namespace('watch/');
  await kv.put('a').value('1');
  const first = Number((await kv.get('a').exec()).kvs[0].mod_revision);
  const seen = [];
  const watcher = await within('watch create', kv.watch().prefix('').withPreviousKV().startRevision(first).create());
  const enough = new Promise((done, failed) => {
    const note = (kind, now, before) => {
      seen.push([kind, now.key.toString(), now.value.toString(), before ? before.value.toString() : null]);
      if (seen.length === 4) done();
    };
    watcher.on('put', (now, before) => note('put', now, before));
    watcher.on('delete', (now, before) => note('delete', now, before));
    watcher.on('error', failed);
  });
  await kv.put('a').value('2');
  await kv.delete().key('a');
  await kv.put('b').value('3');
  await within('watch events', enough);
  assert.deepEqual(seen, [
    ['put', 'a', '1', null],
    ['put', 'a', '2', '1'],
    ['delete', 'a', '', '2'],
    ['put', 'b', '3', null],
  ]);
  await within('watch cancel', watcher.cancel());
}

async function leases(root) {
  const kv = root.namespace('lease/');
  const lease = kv.lease(30);
  await lease.put('a').value('1');
  const id = await lease.grant();
  assert.equal((await kv.get('a').exec()).kvs[0].lease, id);
  await lease.keepaliveOnce();
  await lease.revoke();
  assert.equal(await kv.get('a').string(), null);
  await assert.rejects(lease.keepaliveOnce(), EtcdLeaseInvalidError);

  // A short one without renewals ends by itself.
  const short = kv.lease(2, { autoKeepAlive: false });
  await short.put('short').value('1');
  assert.equal(await kv.get('short').string(), '1');
  await within('expiry', (async () => {
    while ((await kv.get('short').string()) !== null) await sleep(100);
  })());

  const lock = kv.lock('mutex').ttl(10);
  await lock.acquire();
  await assert.rejects(kv.lock('mutex').ttl(10).acquire(), /lock/);
  await lock.release();
}

(async () => {
  const endpoint = process.argv[2];
  assert.ok(endpoint, 'use: node main.js ENDPOINT');
  const client = new Etcd3({ hosts: endpoint });
  const root = client.namespace(`js/${Date.now()}/`);
  for (const [name, step] of Object.entries({ kv: keyValue, txn: transactions, watch: watches, lease: leases })) {
    await within(name, step(root), 30);
    console.log('ok', name);
  }
  client.close();
})().catch(error => {
  console.error('FAILED:', error);
  process.exit(1);
});
