import sys
import syndicate
from syndicate import patterns as P, actor, dataspace, turn, relay, Record, Symbol, Embedded
from syndicate.during import During

REF = syndicate.parse('<ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg==]}>')

def use(ds):
    print('connected', flush=True)

    @dataspace.during(ds, P.rec('Present', P.CAPTURE))          # observe assertions
    def on_present(who):
        print('+', who, flush=True)
        turn.on_stop(lambda: print('-', who, flush=True))       # ... and their retraction

    @dataspace.on_message(ds, P.rec('Says', P.CAPTURE, P.CAPTURE))
    def on_says(who, what):
        print('says', who, what, flush=True)

    turn.publish(ds, Record(Symbol('Present'), ['py']))         # assert
    turn.send(ds, Record(Symbol('Says'), ['py', 'hello']))      # message

@actor.run_system(name='demo')          # runs at once: must come last in the file
def main():
    @relay.connect(sys.argv[1])         # without a cap: yields the gatekeeper (oid 0)
    def with_gatekeeper(gk):
        @During().add_handler
        def on_answer(a):
            if a.key.name in ('ok', 'accepted'):
                use(a[0].embeddedValue)
            else:
                print('refused', a, flush=True)
        turn.publish(gk, Record(Symbol('resolve'), [REF, Embedded(turn.ref(on_answer))]))
