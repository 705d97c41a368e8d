# A chat by the library's own way in: it resolves the reference itself, and wants the older answers.
import sys
import syndicate
from syndicate import patterns as P, actor, dataspace, turn, relay, Record, Symbol

address, me = sys.argv[1:]
REF = syndicate.parse('<ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg==]}>')

@actor.run_system(name='chat')
def main():
    @relay.connect(address, REF)
    def on_connected(ds):
        print('connected', flush=True)

        @dataspace.during(ds, P.rec('Present', P.CAPTURE))
        def on_present(who):
            print(who, 'joined', flush=True)
            turn.on_stop(lambda: print(who, 'left', flush=True))

        @dataspace.on_message(ds, P.rec('Says', P.CAPTURE, P.CAPTURE))
        def on_says(who, what):
            print(who, 'says', repr(what), flush=True)

        turn.publish(ds, Record(Symbol('Present'), [me]))
        turn.send(ds, Record(Symbol('Says'), [me, 'hello']))
        # Sent with a peer that is embedded twice.
        turn.sync(ds, lambda: print('synced', flush=True))
