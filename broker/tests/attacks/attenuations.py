"""Thirty bytes that attenuate what was attenuated at length before copy that length, twice."""
import sys; from wire import *
port=int(sys.argv[1]); pid=int(sys.argv[2]); size=int(sys.argv[3]); N=int(sys.argv[4])
inn=Innocents(port,src='127.0.0.9'); inn.start(); time.sleep(.3); print('base',inn.report(),'rss',rss(pid))
g=resolved(port,src='127.0.0.5'); g.settimeout(40)
g.sendall(enc([obs(rec('offer',1),7,2)])+enc([asr(Rec('offer',Emb([1,1,Rec('reject',Rec('lit',b'z'*size))])),3)]))
time.sleep(1); print(g.recv(200)); print('rss',rss(pid))
b=b''.join(enc([asr(Rec('keep',Emb([1,2,Rec('reject',Rec('lit',i))])),100+i)]) for i in range(N))+enc([[1,Rec('S',Emb([0,1]))]])
t=time.time(); g.sendall(b); print(g.recv(200)[:40]); print(f'{len(b)} bytes, {time.time()-t:.1f}s: rss',rss(pid),inn.report())
g.close(); time.sleep(2); print('closed: rss',rss(pid),inn.report())
