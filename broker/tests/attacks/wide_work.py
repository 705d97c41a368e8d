"""One turn times many observations of the same session: no bound on the work, all of it in one run under the lock."""
import sys; from wire import *
port=int(sys.argv[1]); pid=int(sys.argv[2]); N=int(sys.argv[3]); M=int(sys.argv[4])
inn=Innocents(port,src='127.0.0.9'); inn.start(); time.sleep(.5); print('base',inn.report(),'rss',rss(pid))
g=resolved(port,src='127.0.0.5'); t=time.time()
b=b''.join(enc([obs(rec('x',0),10+i,10+i)]) for i in range(N))+enc([[1,Rec('S',Emb([0,1]))]])
g.settimeout(60); g.sendall(b); g.recv(100); print(f'{N} observations, {len(b)} bytes, {time.time()-t:.1f}s')
a=resolved(port,src='127.0.0.5'); a.sendall(enc([msg(Rec('other',0))])); time.sleep(.1); t=time.time(); a.settimeout(100)
a.sendall(enc([msg(Rec("x"))]*M+[[1,Rec("S",Emb([0,77]))]]))
# Somebody who subscribes meanwhile makes everybody wait.
time.sleep(.2)
s=resolved(port,src='127.0.0.9'); s.sendall(enc([obs(rec('other',1),5,5)]))
try: print('author got',a.recv(400))
except Exception as e: print('author',repr(e))
print(f'{time.time()-t:.2f}s for a turn of {M} messages'); time.sleep(.5); print(inn.report(),'rss',rss(pid))
