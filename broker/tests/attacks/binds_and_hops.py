"""Two packets: a dataspace that observes itself with 240 binds, and one message."""
import sys; from wire import *
port=int(sys.argv[1]); pid=int(sys.argv[2]); size=int(sys.argv[3])
g=resolved(port,src='127.0.0.5'); g.settimeout(40)
p=Rec('group',Rec('arr'),{})
for _ in range(240): p=Rec('bind',p)
p0=p
print('rss',rss(pid))
a=enc([[1,Rec('A',Rec('Observe',p0,Emb([1,1])),5)]]); b=enc([msg(['y'*size])])
print(len(a)+len(b),'bytes in all'); t=time.time()
g.sendall(a+b+enc([[1,Rec('S',Emb([0,1]))]]))
try:
    while time.time()-t<30:
        x=g.recv(400); print('got',x[:200])
        if not x: break
except Exception as e: print(repr(e))
try: print(f'{time.time()-t:.1f}s rss',rss(pid))
except Exception as e: print('the broker has gone',e)
