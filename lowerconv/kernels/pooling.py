"""TEMPORARY numpy stand-ins."""
import numpy as np
def im(f, step, N, C, H, W):
    i=f.itemsize
    return np.lib.stride_tricks.as_strided(f, (N, C, H, W), (step*i, H*W*i, W*i, i))
def max_pool(team, x, xs, y, ys, winner, N, C, H, W, P, Q, size, stride, pad):
    X=im(x,xs,N,C,H,W); Y=im(y,ys,N,C,P,Q); Wn=winner.reshape(N,C,P,Q) if winner.size else None
    for p in range(P):
        for q in range(Q):
            best=None
            for r in range(size[0]):
                for s in range(size[1]):
                    h=p*stride[0]-pad[0]+r; w=q*stride[1]-pad[1]+s
                    if 0<=h<H and 0<=w<W:
                        a=X[:,:,h,w]; n=np.full(a.shape, r*size[1]+s)
                        if best is None: best=a.copy(); at=n
                        else:
                            wins=(a>best)|np.isnan(a); best=np.where(wins,a,best); at=np.where(wins,n,at)
            Y[:,:,p,q]=best
            if Wn is not None: Wn[:,:,p,q]=at
def max_pool_grad(team, dy, dys, winner, dx, dxs, N, C, H, W, P, Q, size, stride, pad, add):
    D=im(dx,dxs,N,C,H,W); G=im(dy,dys,N,C,P,Q); Wn=winner.reshape(N,C,P,Q)
    if not add: D[...]=0
    for p in range(P):
        for q in range(Q):
            for r in range(size[0]):
                for s in range(size[1]):
                    h=p*stride[0]-pad[0]+r; w=q*stride[1]-pad[1]+s
                    if 0<=h<H and 0<=w<W: D[:,:,h,w]+=G[:,:,p,q]*(Wn[:,:,p,q]==r*size[1]+s)
def area(i,size,stride,pad,extent,cp):
    a=i*stride-pad; 
    return min(a+size,extent+pad)-a if cp else min(a+size,extent)-max(a,0)
def avg_pool(team, x, xs, y, ys, N, C, H, W, P, Q, size, stride, pad, cp):
    X=im(x,xs,N,C,H,W); Y=im(y,ys,N,C,P,Q)
    for p in range(P):
        for q in range(Q):
            h=p*stride[0]-pad[0]; w=q*stride[1]-pad[1]
            Y[:,:,p,q]=X[:,:,max(h,0):h+size[0],max(w,0):w+size[1]].sum((2,3))/(area(p,size[0],stride[0],pad[0],H,cp)*area(q,size[1],stride[1],pad[1],W,cp))
def avg_pool_grad(team, dy, dys, dx, dxs, N, C, H, W, P, Q, size, stride, pad, cp, add):
    D=im(dx,dxs,N,C,H,W); G=im(dy,dys,N,C,P,Q)
    if not add: D[...]=0
    for p in range(P):
        for q in range(Q):
            h=p*stride[0]-pad[0]; w=q*stride[1]-pad[1]
            D[:,:,max(h,0):h+size[0],max(w,0):w+size[1]]+=(G[:,:,p,q]/(area(p,size[0],stride[0],pad[0],H,cp)*area(q,size[1],stride[1],pad[1],W,cp)))[:,:,None,None]
