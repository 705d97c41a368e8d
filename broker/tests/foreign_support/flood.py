# flood.py ADDRESS send|count N: sends <Item 0>, <Item 1>, ... or counts them.
import sys
import syndicate
from syndicate import patterns as P, actor, dataspace, turn, relay, Record, Symbol, Embedded
from syndicate.during import During

REF = syndicate.parse('<ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg==]}>')
ADDRESS, ROLE, N = sys.argv[1], sys.argv[2], int(sys.argv[3])

def send(ds):
    for n in range(N):
        turn.send(ds, Record(Symbol('Item'), [n, 'x' * 100]))
    print('sent', N, flush=True)

def count(ds):
    seen = []

    @dataspace.on_message(ds, P.rec('Item', P.CAPTURE, P.CAPTURE))
    def on_item(n, text):
        if n != len(seen) or text != 'x' * 100:
            print('wrong', n, len(seen), flush=True)
        seen.append(n)
        if len(seen) == N:
            print('all', N, flush=True)

    # An assertion comes after the subscription, so whoever sees it may send.
    turn.publish(ds, Record(Symbol('Counting'), []))
    print('counting', flush=True)

@actor.run_system(name='flood')
def main():
    @relay.connect(ADDRESS)
    def with_gatekeeper(gk):
        @During().add_handler
        def on_answer(a):
            ds = a[0].embeddedValue
            if ROLE == 'count':
                return count(ds)

            @dataspace.during(ds, P.rec('Counting'))
            def on_counting():
                send(ds)
        turn.publish(gk, Record(Symbol('resolve'), [REF, Embedded(turn.ref(on_answer))]))
