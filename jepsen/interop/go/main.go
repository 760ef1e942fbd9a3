// The official Go client against one server: KV, txn, watch, lease, and the calls that operators' programs make.
// Use: interop ENDPOINT
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"
)

// check ends the program with a message unless the condition holds.
func check(ok bool, format string, arguments ...any) {
	if !ok {
		fmt.Fprintf(os.Stderr, "FAILED: "+format+"\n", arguments...)
		os.Exit(1)
	}
}

// must unwraps a reply whose call may not fail.
func must[T any](reply T, err error) T {
	check(err == nil, "%v", err)
	return reply
}

func main() {
	check(len(os.Args) == 2, "use: interop ENDPOINT")
	client := must(clientv3.New(clientv3.Config{
		Endpoints:   []string{os.Args[1]},
		DialTimeout: 5 * time.Second,
		Logger:      zap.NewNop(), // it warns of each error that the server answers; here they are expected
	}))
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	prefix := fmt.Sprintf("go/%d/", time.Now().UnixNano())

	steps := []struct {
		name string
		run  func(context.Context, *clientv3.Client, string)
	}{
		{"kv", keyValue}, {"errors", failures}, {"txn", transactions}, {"watch", watches}, {"lease", leases},
		{"concurrency", locks}, {"maintenance", maintenance},
	}
	for _, step := range steps {
		step.run(ctx, client, prefix+step.name+"/")
		fmt.Println("ok", step.name)
	}
}

func keyValue(ctx context.Context, c *clientv3.Client, p string) {
	first := must(c.Put(ctx, p+"a", "1"))
	check(first.PrevKv == nil, "a put without prev_kv returned %v", first.PrevKv)
	second := must(c.Put(ctx, p+"a", "2", clientv3.WithPrevKV()))
	check(second.PrevKv != nil && string(second.PrevKv.Value) == "1", "prev_kv is %v", second.PrevKv)
	check(second.Header.Revision == first.Header.Revision+1, "revisions %d, %d", first.Header.Revision, second.Header.Revision)
	for _, key := range []string{"b", "c", "d"} {
		must(c.Put(ctx, p+key, strings.Repeat(key, 3)))
	}

	got := must(c.Get(ctx, p+"a"))
	check(len(got.Kvs) == 1 && got.Count == 1, "get: %v", got)
	kv := got.Kvs[0]
	check(string(kv.Value) == "2" && kv.Version == 2 && kv.CreateRevision == first.Header.Revision &&
		kv.ModRevision == second.Header.Revision && kv.Lease == 0, "get: %v", kv)
	old := must(c.Get(ctx, p+"a", clientv3.WithRev(first.Header.Revision)))
	check(len(old.Kvs) == 1 && string(old.Kvs[0].Value) == "1", "old revision: %v", old)
	check(old.Header.Revision >= second.Header.Revision, "the header names the current revision, not the asked one")

	page := must(c.Get(ctx, p, clientv3.WithPrefix(), clientv3.WithLimit(2)))
	check(len(page.Kvs) == 2 && page.More && page.Count == 4, "limit: %v", page)
	keys := must(c.Get(ctx, p, clientv3.WithPrefix(), clientv3.WithKeysOnly(),
		clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend)))
	check(len(keys.Kvs) == 4 && string(keys.Kvs[0].Key) == p+"d" && len(keys.Kvs[0].Value) == 0, "keys only: %v", keys)
	count := must(c.Get(ctx, p, clientv3.WithPrefix(), clientv3.WithCountOnly()))
	check(count.Count == 4 && len(count.Kvs) == 0 && !count.More, "count only: %v", count)
	newest := must(c.Get(ctx, p, clientv3.WithLastRev()...))
	check(len(newest.Kvs) == 1 && string(newest.Kvs[0].Key) == p+"d", "newest: %v", newest)
	local := must(c.Get(ctx, p+"b", clientv3.WithSerializable()))
	check(len(local.Kvs) == 1, "serializable: %v", local)

	binary := string([]byte{0, 255, 1, 254})
	must(c.Put(ctx, p+"binary"+binary, binary))
	back := must(c.Get(ctx, p+"binary"+binary))
	check(len(back.Kvs) == 1 && string(back.Kvs[0].Value) == binary, "binary: %v", back)
	large := bytes.Repeat([]byte("large "), 200_000)
	must(c.Put(ctx, p+"large", string(large)))
	back = must(c.Get(ctx, p+"large"))
	check(len(back.Kvs) == 1 && bytes.Equal(back.Kvs[0].Value, large), "a value of 1.2 MB came back as %d bytes", len(back.Kvs[0].Value))

	gone := must(c.Delete(ctx, p, clientv3.WithPrefix(), clientv3.WithPrevKV()))
	check(gone.Deleted == 6 && len(gone.PrevKvs) == 6, "delete: %d", gone.Deleted)
	none := must(c.Delete(ctx, p, clientv3.WithPrefix()))
	check(none.Deleted == 0 && none.Header.Revision == gone.Header.Revision, "a delete of nothing: %v", none)
}

func failures(ctx context.Context, c *clientv3.Client, p string) {
	put := must(c.Put(ctx, p+"a", "1"))
	_, err := c.Get(ctx, p+"a", clientv3.WithRev(put.Header.Revision+1000))
	check(errors.Is(err, rpctypes.ErrFutureRev), "future revision: %v", err)
	_, err = c.Put(ctx, "", "1")
	check(errors.Is(err, rpctypes.ErrEmptyKey), "empty key: %v", err)
	_, err = c.Put(ctx, p+"missing", "", clientv3.WithIgnoreValue())
	check(errors.Is(err, rpctypes.ErrKeyNotFound), "ignore_value on nothing: %v", err)
	_, err = c.Put(ctx, p+"a", "1", clientv3.WithLease(12345))
	check(errors.Is(err, rpctypes.ErrLeaseNotFound), "unknown lease: %v", err)
	_, err = c.Txn(ctx).Then(clientv3.OpPut(p+"x", "1"), clientv3.OpPut(p+"x", "2")).Commit()
	check(errors.Is(err, rpctypes.ErrDuplicateKey), "duplicate key: %v", err)
	many := make([]clientv3.Op, 129)
	for i := range many {
		many[i] = clientv3.OpGet(fmt.Sprint(p, i))
	}
	_, err = c.Txn(ctx).Then(many...).Commit()
	check(errors.Is(err, rpctypes.ErrTooManyOps), "129 operations: %v", err)
	_, err = c.Put(ctx, p+"huge", strings.Repeat("x", 1_600_000))
	check(errors.Is(err, rpctypes.ErrRequestTooLarge), "1.6 MB: %v", err)
	// A message that is too large already as such: the client is told not to look, the server has to.
	careless := must(clientv3.New(clientv3.Config{
		Endpoints: c.Endpoints(), DialTimeout: 5 * time.Second, Logger: zap.NewNop(), MaxCallSendMsgSize: 8 << 20,
	}))
	defer careless.Close()
	_, err = careless.Put(ctx, p+"frame", strings.Repeat("x", 3_000_000))
	check(err != nil && strings.Contains(err.Error(), "received message larger than max (") &&
		strings.Contains(err.Error(), " vs. 2097152)"), "3 MB: %v", err)
	check(len(must(c.Get(ctx, p+"frame")).Kvs) == 0, "something of 3 MB is there")
	_, err = c.Revoke(ctx, 12345)
	check(errors.Is(err, rpctypes.ErrLeaseNotFound), "revoke of an unknown lease: %v", err)
}

func transactions(ctx context.Context, c *clientv3.Client, p string) {
	create := func(value string) *clientv3.TxnResponse {
		return must(c.Txn(ctx).
			If(clientv3.Compare(clientv3.CreateRevision(p+"a"), "=", 0)).
			Then(clientv3.OpPut(p+"a", value)).
			Else(clientv3.OpGet(p + "a")).Commit())
	}
	made := create("1")
	check(made.Succeeded && made.Responses[0].GetResponsePut() != nil, "create: %v", made)
	kept := create("2")
	check(!kept.Succeeded && string(kept.Responses[0].GetResponseRange().Kvs[0].Value) == "1", "create again: %v", kept)

	// The inner read sees the put before it; the nested branch is chosen on the state before the txn.
	nested := must(c.Txn(ctx).
		If(clientv3.Compare(clientv3.Value(p+"a"), "=", "1"), clientv3.Compare(clientv3.Version(p+"a"), ">", 0)).
		Then(
			clientv3.OpPut(p+"b", "new"),
			clientv3.OpGet(p+"b"),
			clientv3.OpTxn(
				[]clientv3.Cmp{clientv3.Compare(clientv3.Version(p+"b"), "=", 0)},
				[]clientv3.Op{clientv3.OpPut(p+"c", "then"), clientv3.OpDelete(p + "a")},
				[]clientv3.Op{clientv3.OpPut(p+"c", "else")},
			),
		).Commit())
	check(nested.Succeeded && len(nested.Responses) == 3, "nested: %v", nested)
	check(string(nested.Responses[1].GetResponseRange().Kvs[0].Value) == "new", "read after write: %v", nested)
	inner := nested.Responses[2].GetResponseTxn()
	check(inner.Succeeded && inner.Responses[1].GetResponseDeleteRange().Deleted == 1, "inner: %v", inner)
	after := must(c.Get(ctx, p, clientv3.WithPrefix()))
	check(after.Count == 2 && after.Kvs[0].ModRevision == after.Kvs[1].ModRevision &&
		after.Kvs[0].ModRevision == nested.Header.Revision, "one revision a txn: %v", after)
	whole := must(c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(p), ">", 0).WithPrefix()).Commit())
	check(whole.Succeeded, "compare over a range: %v", whole)
}

// receive waits for the next response with events.
func receive(ctx context.Context, watch clientv3.WatchChan) clientv3.WatchResponse {
	for {
		select {
		case response, open := <-watch:
			check(open, "the watch closed")
			check(response.Err() == nil, "the watch failed: %v", response.Err())
			if len(response.Events) > 0 || response.IsProgressNotify() {
				return response
			}
		case <-time.After(10 * time.Second):
			check(false, "nothing on the watch for 10 s")
		case <-ctx.Done():
			check(false, "%v", ctx.Err())
		}
	}
}

func watches(ctx context.Context, c *clientv3.Client, p string) {
	first := must(c.Put(ctx, p+"a", "1"))
	must(c.Put(ctx, p+"a", "2"))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	// From a past revision, with what was there before.
	var events []*clientv3.Event
	past := c.Watch(ctx, p, clientv3.WithPrefix(), clientv3.WithRev(first.Header.Revision), clientv3.WithPrevKV())
	live := c.Watch(ctx, p, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	created := <-live
	check(created.Created, "expected the created notice: %v", created)
	deletes := c.Watch(ctx, p, clientv3.WithPrefix(), clientv3.WithFilterPut())
	for len(events) < 2 {
		events = append(events, receive(ctx, past).Events...)
	}
	check(events[0].IsCreate() && events[0].PrevKv == nil, "first event: %v", events[0])
	check(events[1].IsModify() && string(events[1].PrevKv.Value) == "1", "second event: %v", events[1])

	txn := must(c.Txn(ctx).Then(clientv3.OpPut(p+"b", "1"), clientv3.OpPut(p+"c", "1"), clientv3.OpDelete(p+"a")).Commit())
	batch := receive(ctx, live)
	check(len(batch.Events) == 3 && batch.Header.Revision == txn.Header.Revision, "one response a revision: %v", batch.Events)
	removed := batch.Events[2]
	check(removed.Type == clientv3.EventTypeDelete && removed.Kv.ModRevision == txn.Header.Revision &&
		removed.Kv.CreateRevision == 0 && removed.PrevKv == nil, "delete event: %v", removed)
	only := receive(ctx, deletes)
	check(len(only.Events) == 1 && only.Events[0].Type == clientv3.EventTypeDelete, "filtered: %v", only.Events)
	withOld := receive(ctx, past)
	check(len(withOld.Events) == 3 && string(withOld.Events[2].PrevKv.Value) == "2", "prev_kv of a delete: %v", withOld.Events)

	check(c.RequestProgress(ctx) == nil, "request for progress")
	progress := receive(ctx, live)
	check(progress.IsProgressNotify() && progress.Header.Revision >= txn.Header.Revision, "progress: %v", progress)

	// A watch below the compaction ends with its revision.
	must(c.Compact(ctx, txn.Header.Revision))
	late := <-c.Watch(ctx, p+"a", clientv3.WithRev(first.Header.Revision))
	check(errors.Is(late.Err(), rpctypes.ErrCompacted) && late.CompactRevision == txn.Header.Revision, "compacted watch: %v", late)
	_, err := c.Get(ctx, p+"a", clientv3.WithRev(first.Header.Revision))
	check(errors.Is(err, rpctypes.ErrCompacted), "compacted read: %v", err)
}

func leases(ctx context.Context, c *clientv3.Client, p string) {
	lease := must(c.Grant(ctx, 60))
	check(lease.TTL == 60 && lease.ID != 0, "grant: %v", lease)
	must(c.Put(ctx, p+"a", "1", clientv3.WithLease(lease.ID)))
	must(c.Put(ctx, p+"b", "1", clientv3.WithLease(lease.ID)))
	kv := must(c.Get(ctx, p+"a")).Kvs[0]
	check(kv.Lease == int64(lease.ID), "attached: %v", kv)
	life := must(c.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys()))
	check(life.GrantedTTL == 60 && life.TTL > 50 && life.TTL <= 60 && len(life.Keys) == 2, "time to live: %v", life)
	once := must(c.KeepAliveOnce(ctx, lease.ID))
	check(once.TTL == 60, "keep alive: %v", once)
	listed := false
	for _, status := range must(c.Leases(ctx)).Leases {
		listed = listed || status.ID == lease.ID
	}
	check(listed, "the lease is not in the list")
	must(c.Revoke(ctx, lease.ID))
	check(must(c.Get(ctx, p, clientv3.WithPrefix())).Count == 0, "keys outlived their lease")
	gone := must(c.TimeToLive(ctx, lease.ID))
	check(gone.TTL == -1, "time to live of a revoked lease: %v", gone)
	_, err := c.KeepAliveOnce(ctx, lease.ID)
	check(errors.Is(err, rpctypes.ErrLeaseNotFound), "keep alive of a revoked lease: %v", err)

	// A short one, kept alive past its time, then left to end by itself.
	short := must(c.Grant(ctx, 2))
	must(c.Put(ctx, p+"short", "1", clientv3.WithLease(short.ID)))
	watch := c.Watch(ctx, p+"short")
	keeping, stop := context.WithCancel(ctx)
	beats := must(c.KeepAlive(keeping, short.ID))
	deadline := time.After(3500 * time.Millisecond)
	renewals := 0
	for waiting := true; waiting; {
		select {
		case beat, open := <-beats:
			check(open && beat.TTL == 2, "keep alive stream: %v", beat)
			renewals++
		case <-deadline:
			waiting = false
		}
	}
	stop()
	check(renewals >= 3, "only %d renewals in 3.5 s", renewals)
	check(must(c.Get(ctx, p+"short")).Count == 1, "a renewed lease expired")
	ended := receive(ctx, watch)
	check(ended.Events[0].Type == clientv3.EventTypeDelete, "expiry: %v", ended.Events)
}

func locks(ctx context.Context, c *clientv3.Client, p string) {
	session := must(concurrency.NewSession(c, concurrency.WithTTL(30)))
	defer session.Close()
	mutex := concurrency.NewMutex(session, p+"mutex")
	check(mutex.Lock(ctx) == nil, "lock")
	other := must(concurrency.NewSession(c, concurrency.WithTTL(30)))
	defer other.Close()
	second := concurrency.NewMutex(other, p+"mutex")
	check(errors.Is(second.TryLock(ctx), concurrency.ErrLocked), "a held mutex was given away")
	check(mutex.Unlock(ctx) == nil, "unlock")
	check(second.Lock(ctx) == nil, "the second lock")
	check(second.Unlock(ctx) == nil, "the second unlock")

	election := concurrency.NewElection(session, p+"election")
	check(election.Campaign(ctx, "one") == nil, "campaign")
	leader := must(election.Leader(ctx))
	check(string(leader.Kvs[0].Value) == "one", "leader: %v", leader)
	check(election.Resign(ctx) == nil, "resign")

	_, err := concurrency.NewSTM(c, func(stm concurrency.STM) error {
		stm.Put(p+"stm", stm.Get(p+"stm")+"x")
		return nil
	})
	check(err == nil, "stm: %v", err)
	check(string(must(c.Get(ctx, p+"stm")).Kvs[0].Value) == "x", "stm wrote something else")
}

func maintenance(ctx context.Context, c *clientv3.Client, p string) {
	endpoint := c.Endpoints()[0]
	status := must(c.Status(ctx, endpoint))
	check(status.Version != "" && status.Leader == status.Header.MemberId && status.RaftTerm > 0 && len(status.Errors) == 0, "status: %v", status)
	members := must(c.MemberList(ctx))
	check(len(members.Members) == 1 && members.Members[0].ID == status.Header.MemberId && !members.Members[0].IsLearner, "members: %v", members)
	must(c.Put(ctx, p+"a", "1"))
	hash := must(c.HashKV(ctx, endpoint, 0))
	again := must(c.HashKV(ctx, endpoint, hash.Header.Revision))
	check(hash.Hash == again.Hash, "two hashes of one revision: %v, %v", hash, again)
}
