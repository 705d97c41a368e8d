"""One client's many equal observations get every author of a message of some size ended."""
import sys; from wire import *
port=int(sys.argv[1]); N=int(sys.argv[2]); size=int(sys.argv[3]); label=sys.argv[4] if len(sys.argv)>4 else 'doc'
g=resolved(port,src='127.0.0.5')
t=time.time()
b=b''.join(enc([obs(rec(label,1),10+i,10+i)]) for i in range(N))+enc([[1,Rec('S',Emb([0,1]))]])
g.settimeout(60); g.sendall(b); g.recv(100); print(f'{N} observations, {len(b)} bytes, {time.time()-t:.1f}s')
a=resolved(port,src='127.0.0.9'); a.sendall(enc([msg(Rec('other',0))])); time.sleep(.1)
a.sendall(enc([msg(Rec('doc','x'*size))])+enc([[1,Rec('S',Emb([0,77]))]]))
try: print('author got',a.recv(400))
except Exception as e: print('author',repr(e))
